import { HeadObjectCommand } from "@aws-sdk/client-s3";
import { createMemoryRegion, keyHex, LookupState, Outcome, outcomeCode, storedBlockBytes } from "@kvferry/core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { S3Backend, type S3Config } from "../src/index.js";
import { type Fault, FaultProxy, type SeenRequest } from "./fault-proxy.js";
import {
  batchOf,
  filled,
  KEY_BYTES,
  keyOf,
  keysOf,
  namespaceOf,
  recordingLogger,
  sameBytes,
  until,
} from "./fixtures.js";
import { describeServers } from "./servers.js";

// Whatever the network and the storage do: no wrong byte, a code that says whether to try again, and a call that ends.

const BLOCK_BYTES = 300_000;
const { FAILED, LOADED, MISS, PRESENT, STORED } = Outcome;
const namespace = namespaceOf("faults");
const objectOf = (id: number): string => {
  const hex = keyHex(keyOf(id));
  return `cache/${namespace.digestHex}/${hex.slice(0, 2)}/${hex}`;
};
const isBlock = ({ url }: SeenRequest): boolean => /\/[0-9a-f]{2}\/[0-9a-f]{72}(\?|$)/.test(url);

describeServers("s3 faults", (server) => {
  let proxy: FaultProxy;
  let bucket: string;
  let lines: string[];
  const opened: S3Backend[] = [];

  async function open(
    more: Partial<S3Config> = {},
    endpoint?: string,
    blockBytes: number = BLOCK_BYTES,
  ): Promise<S3Backend> {
    const backend = new S3Backend(server().config(bucket, { endpoint: endpoint ?? (await endpointOf()), ...more }));
    const log = recordingLogger();
    lines = log.lines;
    opened.push(backend);
    await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes, logger: log.logger });
    return backend;
  }

  let endpointOf: () => Promise<string>;

  beforeEach(async () => {
    bucket = await server().bucket();
    proxy = new FaultProxy(server().server.port);
    const starting = proxy.start();
    endpointOf = () => starting;
  });

  afterEach(async () => {
    proxy.fault = () => undefined;
    await Promise.all(opened.splice(0).map((each) => each.close()));
    await proxy.stop();
  });

  /** The fault for block requests of one method, the first `times` of them. */
  function breakBlocks(method: string, fault: Fault, times = Number.POSITIVE_INFINITY): void {
    let left = times;
    proxy.fault = (seen) => (seen.method === method && isBlock(seen) && left-- > 0 ? fault : undefined);
  }

  async function storeOf(backend: S3Backend, id: number): Promise<string> {
    const result = await backend.store(batchOf([id], filled([id], BLOCK_BYTES)));
    return outcomeCode(result, 0) ?? String(result.outcomes[0]);
  }

  /** What a load says; its bytes are checked where it says LOADED. */
  async function loadOf(backend: S3Backend, id: number): Promise<string> {
    const region = createMemoryRegion(1, BLOCK_BYTES);
    const result = await backend.load(batchOf([id], region));
    if (result.outcomes[0] === LOADED) expect(sameBytes(region.bytes, filled([id], BLOCK_BYTES).bytes)).toBe(true);
    return outcomeCode(result, 0) ?? String(result.outcomes[0]);
  }

  const answers: [status: number, code: string, ours: string][] = [
    [503, "SlowDown", "BUSY"],
    [503, "ServiceUnavailable", "UNAVAILABLE"],
    [500, "InternalError", "IO"],
    [403, "AccessDenied", "PERMISSION"],
    [507, "XMinioStorageFull", "NO_SPACE"],
    [404, "NoSuchBucket", "CONFIG_INVALID"],
  ];

  it.each(answers)("answers %i %s with the code %s", async (status, code, ours) => {
    const backend = await open();
    proxy.fault = (seen) => (isBlock(seen) ? { kind: "answer", status, code } : undefined);
    expect(await storeOf(backend, 1)).toBe(ours);
    if (code !== "XMinioStorageFull") expect(await loadOf(backend, 1)).toBe(ours);
    proxy.fault = () => undefined;
    expect(await storeOf(backend, 1)).toBe(String(STORED));
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a block cut off on the way to the storage is a failure, and is not there", async () => {
    const backend = await open();
    for (const bytes of [0, 1000, BLOCK_BYTES - 1]) {
      breakBlocks("PUT", { kind: "cutRequest", bytes });
      expect(await storeOf(backend, bytes)).toBe("UNAVAILABLE");
      proxy.fault = () => undefined;
      expect(await loadOf(backend, bytes)).toBe(String(MISS));
    }
  });

  it("a bit flipped on the way to the storage is found by it, and the block is not stored", async () => {
    const backend = await open();
    for (const at of [0, 150_000, BLOCK_BYTES + 100]) {
      breakBlocks("PUT", { kind: "flipRequest", at });
      expect(await storeOf(backend, at)).toBe("IO");
      proxy.fault = () => undefined;
      expect(await loadOf(backend, at)).toBe(String(MISS));
      expect(await storeOf(backend, at)).toBe(String(STORED));
    }
  });

  it("a block cut off on the way back is a failure that may pass", async () => {
    const backend = await open();
    await storeOf(backend, 1);
    for (const bytes of [0, 1, 100_000, BLOCK_BYTES, BLOCK_BYTES + 1000]) {
      breakBlocks("GET", { kind: "cutResponse", bytes });
      expect(await loadOf(backend, 1)).toBe("UNAVAILABLE");
    }
    proxy.fault = () => undefined;
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a bit flipped once on the way back costs nothing; flipped always, the block is CORRUPT and out of the way", async () => {
    const backend = await open();
    await storeOf(backend, 1);
    for (const at of [0, 299_999, BLOCK_BYTES + 10, storedBlockBytes(BLOCK_BYTES) - 1]) {
      breakBlocks("GET", { kind: "flipResponse", at }, 1);
      expect(await loadOf(backend, 1)).toBe(String(LOADED));
    }
    breakBlocks("GET", { kind: "flipResponse", at: 5 });
    expect(await loadOf(backend, 1)).toBe("CORRUPT");
    expect([...(await backend.lookup(keysOf([1])))]).toEqual([LookupState.MISS]);
    proxy.fault = () => undefined;
    expect(lines.join()).toContain("set aside");
    expect(await storeOf(backend, 1)).toBe(String(STORED));
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a block whose answer got lost is found to be there", async () => {
    const backend = await open();
    breakBlocks("PUT", { kind: "loseAnswer" });
    expect(await storeOf(backend, 1)).toBe(String(PRESENT));
    proxy.fault = () => undefined;
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a storage that is silent is given up after its time", async () => {
    const backend = await open({ requestTimeoutMs: 200 });
    await storeOf(backend, 1);
    breakBlocks("GET", { kind: "hang" });
    expect(await loadOf(backend, 1)).toBe("UNAVAILABLE");
    breakBlocks("GET", { kind: "stall", bytes: 100_000 });
    expect(await loadOf(backend, 1)).toBe("UNAVAILABLE");
    breakBlocks("PUT", { kind: "hang" });
    expect(await storeOf(backend, 2)).toBe("UNAVAILABLE");
    breakBlocks("GET", { kind: "delay", ms: 20 });
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a load that is aborted in its middle leaves its slot alone from then on, and ends at once", async () => {
    const backend = await open({ requestTimeoutMs: 600_000 }); // nothing but the abort ends it
    await storeOf(backend, 1);
    let release = (): void => {};
    const released = new Promise<void>((done) => {
      release = done;
    });
    breakBlocks("GET", { kind: "stall", bytes: 100_000, release: released });
    const region = createMemoryRegion(1, BLOCK_BYTES);
    const controller = new AbortController();
    const loading = backend.load(batchOf([1], region), { signal: controller.signal });
    await until(() => region.bytes.some((byte) => byte !== 0)); // it has begun to come
    controller.abort();
    const before = region.bytes.slice();
    const result = await loading; // the storage is still stalling
    expect([result.outcomes[0], outcomeCode(result, 0)]).toEqual([FAILED, "ABORTED"]);
    release(); // now the rest comes
    await new Promise((done) => setTimeout(done, 50));
    await until(async () => (await proxy.connections()) === 0 || backend.requests.running === 0);
    expect(sameBytes(region.bytes, before)).toBe(true);
    expect(backend.requests).toEqual({ running: 0, waiting: 0 });
  });

  it("a store that is aborted in its middle leaves nothing half-stored", async () => {
    const backend = await open();
    breakBlocks("PUT", { kind: "hang" });
    const controller = new AbortController();
    const region = filled([1], BLOCK_BYTES);
    const storing = backend.store(batchOf([1], region), { signal: controller.signal });
    await until(() => proxy.seen.some((seen) => seen.method === "PUT" && isBlock(seen)));
    controller.abort();
    region.bytes.fill(0);
    expect(outcomeCode(await storing, 0)).toBe("ABORTED");
    proxy.fault = () => undefined;
    expect(await loadOf(backend, 1)).toBe(String(MISS));
  });

  it("from the abort on nothing more of the slot goes out, though most of it had been handed over", async () => {
    const backend = await open({ multipartFromBytes: 2 ** 30 }, undefined, 32 * 2 ** 20);
    const held: Uint8Array[] = [];
    let release = (): void => {};
    const released = new Promise<void>((done) => {
      release = done;
    });
    breakBlocks("PUT", { kind: "hold", release: released, held });
    const controller = new AbortController();
    const region = filled([1], 32 * 2 ** 20);
    const storing = backend.store(batchOf([1], region), { signal: controller.signal });
    await until(() => proxy.seen.some((seen) => seen.method === "PUT" && isBlock(seen)));
    await new Promise((done) => setTimeout(done, 20)); // the kernel's buffers fill up
    controller.abort();
    region.bytes.fill(0xee);
    expect(outcomeCode(await storing, 0)).toBe("ABORTED");
    release();
    await until(async () => (await proxy.connections()) === 0 || backend.requests.running === 0);
    await new Promise((done) => setTimeout(done, 50));
    const sent = Buffer.concat(held);
    expect(sent.length).toBeLessThan(region.bytes.length);
    expect(sent.includes(Buffer.alloc(64, 0xee))).toBe(false);
  });

  it("waiting requests end at once too, and their turn goes to others", async () => {
    const backend = await open({ socketsMax: 2 });
    await storeOf(backend, 1);
    breakBlocks("GET", { kind: "hang" });
    const controller = new AbortController();
    const ids = Array.from({ length: 10 }, (_, i) => i);
    const region = createMemoryRegion(10, BLOCK_BYTES);
    const loads = [1, 2, 3].map(() => backend.load(batchOf(ids, region), { signal: controller.signal }));
    await until(() => backend.requests.waiting > 0 && backend.requests.running === 2);
    proxy.fault = () => undefined;
    controller.abort();
    for (const load of loads) expect((await load).outcomes.every((each) => each === FAILED)).toBe(true);
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a server that has closed the kept connections costs no request", async () => {
    const backend = await open();
    await storeOf(backend, 1);
    for (let i = 0; i < 20; i++) {
      await proxy.stop();
      const again = new FaultProxy(server().server.port);
      proxy = again;
      const port = Number(new URL(await endpointOf()).port);
      await again.start(port);
      expect(await loadOf(backend, 1)).toBe(String(LOADED));
    }
  });

  it("a storage that does not have conditional creates is written to without", async () => {
    proxy.fault = ({ headers }) =>
      headers["if-none-match"] === undefined ? undefined : { kind: "answer", status: 501, code: "NotImplemented" };
    const backend = await open();
    expect(backend.conditional).toBe(false);
    expect(lines.join()).toContain("If-None-Match");
    expect(await storeOf(backend, 1)).toBe(String(STORED));
    expect(proxy.seen.some((seen) => isBlock(seen) && seen.headers["if-none-match"] !== undefined)).toBe(false);
    expect(await loadOf(backend, 1)).toBe(String(LOADED));
  });

  it("a conflict of two creates is settled by looking", async () => {
    const backend = await open();
    breakBlocks("PUT", { kind: "answer", status: 409, code: "ConditionalRequestConflict" }, 1);
    expect(await storeOf(backend, 1)).toBe(String(STORED)); // nobody else has stored it after all
    const other = await open();
    breakBlocks("PUT", { kind: "answer", status: 409, code: "ConditionalRequestConflict" }, 1);
    expect(await storeOf(other, 1)).toBe(String(PRESENT));
  });

  it("asks for encryption with every block, where it is set", async () => {
    proxy.fault = (seen) => (seen.method === "PUT" ? { kind: "answer", status: 503, code: "SlowDown" } : undefined);
    await open({ sse: { type: "aws:kms", kmsKeyId: "key-1" } }).catch(() => {});
    expect(proxy.seen[0]?.headers).toMatchObject({
      "x-amz-server-side-encryption": "aws:kms",
      "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
    });
    await open({ sse: { type: "AES256" } }).catch(() => {});
    expect(proxy.seen.at(-1)?.headers["x-amz-server-side-encryption"]).toBe("AES256");
    opened.length = 0;
  });

  it("gives the storage the checksum of what it sends, signed, and no second one", async () => {
    const backend = await open();
    await storeOf(backend, 1);
    const put = proxy.seen.find((seen) => seen.method === "PUT" && isBlock(seen));
    expect(put?.headers["x-amz-checksum-crc32c"]).toMatch(/^[A-Za-z0-9+/]{6}==$/);
    expect(put?.headers["x-amz-content-sha256"]).toBe("UNSIGNED-PAYLOAD");
    expect(put?.headers.authorization).toMatch(/SignedHeaders=[^,]*x-amz-checksum-crc32c/);
    expect(put?.headers["content-length"]).toBe(String(storedBlockBytes(BLOCK_BYTES)));
    const { ChecksumCRC32C } = await server().admin.send(
      new HeadObjectCommand({ Bucket: bucket, Key: objectOf(1), ChecksumMode: "ENABLED" }),
    );
    expect(ChecksumCRC32C).toBe(put?.headers["x-amz-checksum-crc32c"]);
  });

  it("no log line and no failure holds a secret", async () => {
    const backend = await open();
    await storeOf(backend, 1);
    breakBlocks("GET", { kind: "flipResponse", at: 5 });
    await loadOf(backend, 1);
    proxy.fault = () => ({ kind: "answer", status: 403, code: "SignatureDoesNotMatch" });
    await storeOf(backend, 2);
    await backend.lookup(keysOf([7])).catch((error) => lines.push(JSON.stringify(error)));
    proxy.fault = () => undefined;
    await backend.close();
    const text = lines.join("\n");
    expect(lines.length).toBeGreaterThan(0);
    expect(text).not.toContain(server().credentials.secretAccessKey);
    expect(text).not.toMatch(/AWS4-HMAC-SHA256|Signature=/);
  });
});
