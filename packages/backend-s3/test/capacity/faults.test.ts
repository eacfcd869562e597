import { keyHex, LookupState, Outcome, outcomeCode, silentLogger, storedBlockBytes } from "@kvferry/core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { S3Backend, type S3Config } from "../../src/index.js";
import { type Fault, FaultProxy, type SeenRequest } from "../fault-proxy.js";
import { batchOf, filled, KEY_BYTES, keyOf, keysOf, namespaceOf } from "../fixtures.js";
import { describeServers } from "../servers.js";
import { blocksIn } from "./listing.js";
import { TEST_PACE } from "./pace.mjs";

// Whatever becomes of a request: what is on the storage is covered by room, and what is not gives its room back.

const BLOCK_BYTES = 8192;
const FILE_BYTES = storedBlockBytes(BLOCK_BYTES);
const { FAILED, PRESENT, STORED } = Outcome;

const isOf = ({ url }: SeenRequest, id: number): boolean => url.includes(keyHex(keyOf(id)));

describeServers("a capacity in s3, with faults", (server) => {
  let proxy: FaultProxy;
  let config: S3Config;
  const ends: (() => Promise<unknown>)[] = [];

  beforeEach(async () => {
    proxy = new FaultProxy(server().server.port);
    const endpoint = await proxy.start();
    config = server().config(await server().bucket(), { endpoint, capacityBytes: 12 * FILE_BYTES });
  });

  afterEach(async () => {
    proxy.fault = () => undefined;
    for (const end of ends.splice(0).reverse()) await end();
    await proxy.stop();
  });

  async function opened(): Promise<S3Backend> {
    const backend = new S3Backend(config, TEST_PACE);
    const namespace = namespaceOf("faults");
    await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES, logger: silentLogger });
    ends.push(() => backend.close());
    await until(() => backend.rootStatus?.count?.ready === true);
    return backend;
  }

  async function until(done: () => boolean): Promise<void> {
    for (let i = 0; !done(); i++) {
      if (i === 2000) throw new Error("it has not come to that");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  const counts = (backend: S3Backend) => {
    const { counted, outstanding, unaccounted } = backend.rootStatus?.count ?? {};
    return { counted: counted?.files, outstanding: outstanding?.files, unaccounted: unaccounted?.files };
  };

  it.each<Fault>([{ kind: "pretend" }, { kind: "answer", status: 501, code: "NotImplemented" }])(
    "is refused where a storage has no create that fails for a name that is taken: $kind",
    async (fault) => {
      proxy.fault = ({ headers }) => (headers["if-none-match"] === undefined ? undefined : fault);
      const backend = new S3Backend(config, TEST_PACE);
      const opening = backend.open({ namespace: namespaceOf("x"), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
      await expect(opening).rejects.toMatchObject({
        ...{ code: "CONFIG_INVALID", context: { field: "capacityBytes" } },
        message: expect.stringContaining("If-None-Match"),
      });
    },
  );

  it("holds the room of a store whose end nobody knows, and counts it where it has come about", async () => {
    const backend = await opened();
    let answers = 0;
    proxy.fault = (seen) => {
      if (!isOf(seen, 1)) return undefined;
      if (seen.method === "PUT") return { kind: "loseAnswer" };
      return answers++ === 0 ? { kind: "answer", status: 503, code: "ServiceUnavailable" } : undefined;
    };
    const { outcomes } = await backend.store(batchOf([1, 2], filled([1, 2], BLOCK_BYTES)));
    expect([...outcomes]).toEqual([FAILED, STORED]);
    expect(counts(backend).outstanding).toBeGreaterThanOrEqual(1);
    await until(() => counts(backend).counted === 2);
    await until(() => counts(backend).outstanding === 0);
    expect(counts(backend).unaccounted).toBe(0);
  });

  it("finds what a server has left on its way that was closed meanwhile", async () => {
    const first = await opened();
    proxy.fault = (seen) => {
      if (!isOf(seen, 1)) return undefined;
      return seen.method === "PUT"
        ? { kind: "loseAnswer" }
        : { kind: "answer", status: 503, code: "ServiceUnavailable" };
    };
    expect([...(await first.store(batchOf([1], filled([1], BLOCK_BYTES)))).outcomes]).toEqual([FAILED]);
    await first.close();
    proxy.fault = () => undefined;
    const second = await opened();
    await until(() => counts(second).counted === 1);
    await until(() => counts(second).outstanding === 0);
    expect(counts(second).unaccounted).toBe(0);
  });

  it("gives back the room of a store that has not come about", async () => {
    const backend = await opened();
    proxy.fault = (seen) => (isOf(seen, 1) && seen.method === "PUT" ? { kind: "cutRequest", bytes: 100 } : undefined);
    expect([...(await backend.store(batchOf([1], filled([1], BLOCK_BYTES)))).outcomes]).toEqual([FAILED]);
    await until(() => counts(backend).outstanding === 0);
    expect(counts(backend)).toMatchObject({ counted: 0, unaccounted: 0 });
  });

  it("counts a block that is found there after an attempt: it may have been this server's own", async () => {
    const backend = await opened();
    proxy.fault = (seen) => (isOf(seen, 1) && seen.method === "PUT" ? { kind: "loseAnswer" } : undefined);
    expect([...(await backend.store(batchOf([1], filled([1], BLOCK_BYTES)))).outcomes]).toEqual([PRESENT]);
    await until(() => counts(backend).counted === 1);
    await until(() => counts(backend).outstanding === 0);
  });

  it("is held while evictions fail: blocks that are still there count, and go with a later one", async () => {
    const backend = await opened();
    let refused = 0;
    proxy.fault = ({ method, url }) => {
      const removes =
        !url.includes("capacity") && (method === "DELETE" || (method === "POST" && url.includes("delete")));
      return removes && refused++ < 3 ? { kind: "answer", status: 500, code: "InternalError" } : undefined;
    };
    let outcome: number | undefined;
    let id = 0;
    for (; id < 500 && !(refused > 3 && outcome === STORED); id++) {
      [outcome] = (await backend.store(batchOf([id], filled([id], BLOCK_BYTES)))).outcomes;
      expect(await blocksIn(server(), config.bucket)).toBeLessThanOrEqual(12);
    }
    expect(refused).toBeGreaterThan(3);
    expect([...(await backend.lookup(keysOf([id - 1])))]).toEqual([LookupState.HIT]);
  });

  it("says why, where no room can be asked for because its own objects cannot be written", async () => {
    const backend = await opened();
    proxy.fault = ({ url }) =>
      url.includes("capacity") ? { kind: "answer", status: 403, code: "AccessDenied" } : undefined;
    let code: string | undefined;
    for (let id = 0; id < 40 && code !== "PERMISSION"; id++) {
      const result = await backend.store(batchOf([id], filled([id], BLOCK_BYTES)));
      code = outcomeCode(result, 0);
    }
    expect(code).toBe("PERMISSION");
  });
});
