import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { mkdir, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PosixBackend } from "@kvferry/backend-posix";
import {
  createMemoryRegion,
  decodeFooter,
  FOOTER_BYTES,
  type KvferryError,
  keyHex,
  LookupState,
  newWriterName,
  type OpenContext,
  Outcome,
  outcomeCode,
  storedBlockBytes,
} from "@kvferry/core";
import { afterEach, beforeEach, expect, it } from "vitest";
import {
  batchOf,
  filled,
  KEY_BYTES,
  keyOf,
  keysOf,
  namespaceOf,
  sameBytes,
  until,
} from "../../backend-s3/test/fixtures.js";
import { SftpBackend, type SftpConfig, storedNamespaces } from "../src/index.js";
import { configOf, describeSshd } from "./server.js";
import { canDeny, makeRoot, setWritable } from "./storage.js";

// What only this backend has; what every backend must do is in conformance.test.ts.

const { CORRUPT, DROPPED, FAILED, LOADED, MISS, PRESENT, REMOVED, STORED } = Outcome;
const MEBIBYTE = 2 ** 20;
const BLOCK_BYTES = 300_000;
const namespace = namespaceOf("specific");

/** Requests so small, one after the other, that a transfer has a middle to be cut in. */
const SLOW: Partial<SftpConfig> = { connectionsMax: 1, requestsPerFileMax: 1, requestBytesMax: 4096 };
const SLOW_BLOCK_BYTES = 16 * MEBIBYTE;

describeSshd("sftp over OpenSSH, its own ways", (server) => {
  let root: string;
  let removeRoot: () => Promise<void>;
  const opened: { close(): Promise<void> }[] = [];

  async function open(more: Partial<SftpConfig> = {}, context: Partial<OpenContext> = {}): Promise<SftpBackend> {
    const backend = new SftpBackend(configOf(server(), root, more));
    opened.push(backend);
    await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES, ...context });
    return backend;
  }

  const fail = (more: Partial<SftpConfig>): Promise<KvferryError> =>
    open(more).then(
      () => expect.unreachable("open must fail"),
      (thrown: KvferryError) => thrown,
    );

  const inNamespace = (...names: string[]): string => join(root, namespace.digestHex, ...names);
  const fileOf = (id: number): string => {
    const hex = keyHex(keyOf(id));
    return inNamespace("blocks", hex.slice(0, 2), `${hex}.kvb`);
  };
  const temporaries = (): string[] =>
    readdirSync(inNamespace("tmp")).flatMap((writer) =>
      readdirSync(inNamespace("tmp", writer)).map((name) => inNamespace("tmp", writer, name)),
    );

  beforeEach(async () => {
    ({ root, remove: removeRoot } = await makeRoot());
  });

  afterEach(async () => {
    await Promise.all(opened.splice(0).map((each) => each.close()));
    await removeRoot();
  });

  it("writes the block format at its place, for its owner alone, and leaves nothing else behind", async () => {
    const backend = await open();
    await backend.store(batchOf([1], filled([1], BLOCK_BYTES)));
    const stored = readFileSync(fileOf(1));
    expect(stored.length).toBe(storedBlockBytes(BLOCK_BYTES));
    expect(statSync(fileOf(1)).mode & 0o777).toBe(0o600);
    const footer = decodeFooter(stored.subarray(stored.length - FOOTER_BYTES));
    expect(footer).toMatchObject({ payloadBytes: BLOCK_BYTES, formatVersion: 1, codec: 0, checksumKind: 1 });
    expect(temporaries()).toEqual([]);
    await backend.close();
    expect(readdirSync(inNamespace("tmp"))).toEqual([]);
  });

  it.skipIf(process.platform !== "linux")(
    "backend-posix serves what came over SFTP, and the other way round",
    async () => {
      const overSftp = await open();
      const posix = new PosixBackend({ root });
      opened.push(posix);
      await posix.open({ namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
      const region = filled([1, 2, 3, 4], BLOCK_BYTES);
      const sent = { ...batchOf([1, 2], region) };
      const kept = { ...batchOf([3, 4], region), slots: Uint32Array.of(2, 3) };
      expect([...(await overSftp.store(sent)).outcomes]).toEqual([STORED, STORED]);
      expect([...(await posix.store(kept)).outcomes]).toEqual([STORED, STORED]);
      for (const backend of [posix, overSftp]) {
        const into = createMemoryRegion(4, BLOCK_BYTES);
        expect([...(await backend.load(batchOf([1, 2, 3, 4], into))).outcomes]).toEqual([
          LOADED,
          LOADED,
          LOADED,
          LOADED,
        ]);
        expect(sameBytes(into.bytes, region.bytes)).toBe(true);
        expect([...(await backend.lookup(keysOf([1, 3, 9])))]).toEqual([
          LookupState.HIT,
          LookupState.HIT,
          LookupState.MISS,
        ]);
      }
      expect([...(await overSftp.remove(keysOf([3]))).outcomes]).toEqual([REMOVED]);
      expect((await overSftp.usage()).blocks).toBe(3);
    },
  );

  it("a large block moves in many requests over more than one connection with others", async () => {
    const blockBytes = 9 * MEBIBYTE + 100;
    const ids = [1, 2, 3, 4, 5, 6];
    const backend = await open({ filesPerConnectionMax: 1 }, { blockBytes });
    const region = filled(ids, blockBytes);
    expect([...(await backend.store(batchOf(ids, region))).outcomes]).toEqual(ids.map(() => STORED));
    const into = createMemoryRegion(ids.length, blockBytes);
    expect([...(await backend.load(batchOf(ids, into))).outcomes]).toEqual(ids.map(() => LOADED));
    expect(sameBytes(into.bytes, region.bytes)).toBe(true);
    expect(backend.connections).toBeGreaterThan(1);
    expect(backend.connections).toBeLessThanOrEqual(4);
  });

  it("a server that dies in the middle of a store: UNAVAILABLE, no half a block, and the next store connects anew", async () => {
    const backend = await open(SLOW, { blockBytes: SLOW_BLOCK_BYTES });
    const batch = batchOf([1], filled([1], SLOW_BLOCK_BYTES));
    const storing = backend.store(batch);
    await until(() => temporaries().some((path) => statSync(path).size > 0));
    server().signalSessions();
    const result = await storing;
    expect([result.outcomes[0], outcomeCode(result, 0)]).toEqual([FAILED, "UNAVAILABLE"]);
    expect(existsSync(fileOf(1))).toBe(false);
    expect([...(await backend.lookup(keysOf([1])))]).toEqual([LookupState.MISS]);
    expect([...(await backend.store(batch)).outcomes]).toEqual([STORED]);
    await backend.close();
    expect(readdirSync(inNamespace("tmp"))).toEqual([]); // what was cut is gone, too
  });

  it("a server that dies in the middle of a load: UNAVAILABLE, and the next load connects anew", async () => {
    const backend = await open(SLOW, { blockBytes: SLOW_BLOCK_BYTES });
    const region = filled([1], SLOW_BLOCK_BYTES);
    await backend.store(batchOf([1], region));
    const into = createMemoryRegion(1, SLOW_BLOCK_BYTES);
    const loading = backend.load(batchOf([1], into));
    await until(() => into.bytes[100] !== 0 || into.bytes[101] !== 0);
    server().signalSessions();
    const result = await loading;
    expect([result.outcomes[0], outcomeCode(result, 0)]).toEqual([FAILED, "UNAVAILABLE"]);
    expect([...(await backend.load(batchOf([1], into))).outcomes]).toEqual([LOADED]);
    expect(sameBytes(into.bytes, region.bytes)).toBe(true);
  });

  it("a server that hangs holds up neither a deadline nor close, and its late answers go nowhere", async () => {
    const backend = await open({ ...SLOW, closeTimeoutMs: 200 }, { blockBytes: SLOW_BLOCK_BYTES });
    await backend.store(batchOf([1], filled([1], SLOW_BLOCK_BYTES)));
    const into = createMemoryRegion(1, SLOW_BLOCK_BYTES);
    const controller = new AbortController();
    const loading = backend.load(batchOf([1], into), { signal: controller.signal });
    await until(() => into.bytes[100] !== 0 || into.bytes[101] !== 0);
    server().signalSessions("SIGSTOP");
    try {
      controller.abort();
      const before = into.bytes.slice();
      const result = await loading;
      expect([result.outcomes[0], outcomeCode(result, 0)]).toEqual([FAILED, "ABORTED"]);
      const late = await backend.lookup(keysOf([1]), { deadlineMs: 20 }).catch((thrown: KvferryError) => thrown);
      expect((late as KvferryError).code).toBe("DEADLINE");
      server().signalSessions("SIGCONT");
      await new Promise((done) => setTimeout(done, 50));
      expect(sameBytes(into.bytes, before)).toBe(true);
      server().signalSessions("SIGSTOP");
      await backend.close();
    } finally {
      server().signalSessions("SIGCONT");
    }
  });

  it("what is no block is set aside or left alone, and never served", async () => {
    const removed: string[] = [];
    const backend = await open();
    backend.onRemoved((keys, reason) => removed.push(`${keys.count} ${reason}`));
    await backend.store(batchOf([1], filled([1], BLOCK_BYTES)));
    await writeFile(fileOf(2), "garbage");
    await writeFile(fileOf(3), Buffer.alloc(storedBlockBytes(BLOCK_BYTES), 7));
    await writeFile(fileOf(4), Buffer.alloc(BLOCK_BYTES)); // without a footer: vLLM's own
    await writeFile(fileOf(5), readFileSync(fileOf(1))); // another key's
    await mkdir(fileOf(6));
    await writeFile(inNamespace("blocks", "00", "notes.txt"), "mine");
    const into = createMemoryRegion(6, BLOCK_BYTES);
    const { outcomes } = await backend.load(batchOf([1, 2, 3, 4, 5, 6], into));
    expect([...outcomes]).toEqual([LOADED, CORRUPT, CORRUPT, MISS, CORRUPT, FAILED]);
    expect(removed).toEqual(["1 corrupt", "1 corrupt", "1 corrupt"]);
    expect(readdirSync(inNamespace("quarantine")).length).toBe(3);
    expect([...(await backend.lookup(keysOf([1, 2, 3, 4, 5])))]).toEqual([1, 0, 0, 0, 0]);
    expect([...(await backend.store(batchOf([2], filled([2], BLOCK_BYTES)))).outcomes]).toEqual([STORED]);
    expect(readFileSync(inNamespace("blocks", "00", "notes.txt"), "utf8")).toBe("mine");
  });

  it("keeps the newest damaged files only", async () => {
    const backend = await open({ quarantineFilesMax: 2 });
    for (const id of [1, 2, 3, 4]) await writeFile(fileOf(id), "garbage");
    await backend.load(batchOf([1, 2, 3, 4], createMemoryRegion(4, BLOCK_BYTES)));
    await backend.load(batchOf([1], createMemoryRegion(1, BLOCK_BYTES)));
    expect(readdirSync(inNamespace("quarantine")).length).toBeLessThanOrEqual(2);
  });

  it("sweeps what writers that are long gone have left, and nothing of those that may live", async () => {
    await (await open()).close();
    const [old, young] = ["gone-1-1-00112233aabb", "lives-1-1-00112233aabb"].map((name) => inNamespace("tmp", name));
    for (const folder of [old, young] as string[]) {
      await mkdir(folder);
      await writeFile(join(folder, "0"), "half a bl");
    }
    const longAgo = Date.now() / 1000 - 7200;
    await utimes(join(old as string, "0"), longAgo, longAgo);
    await utimes(old as string, longAgo, longAgo);
    const killed = inNamespace("tmp", newWriterName().replace(`-${process.pid}-`, "-999999999-")); // of this host
    await mkdir(killed);
    await writeFile(join(killed, "0"), "half a bl");
    await open();
    await until(() => !existsSync(old as string) && !existsSync(killed));
    expect(existsSync(join(young as string, "0"))).toBe(true);
  });

  it("makes its folders anew when somebody has cleaned up too much", async () => {
    const backend = await open();
    await removeRoot();
    await mkdir(join(root, ".."), { recursive: true });
    const batch = batchOf([1, 2], filled([1, 2], BLOCK_BYTES));
    expect([...(await backend.store(batch)).outcomes]).toEqual([STORED, STORED]);
    expect([...(await backend.load(batchOf([1, 2], createMemoryRegion(2, BLOCK_BYTES)))).outcomes]).toEqual([
      LOADED,
      LOADED,
    ]);
  });

  it("finds the namespaces of a folder without an engine", async () => {
    for (const tenant of ["a", "b"]) await (await open({}, { namespace: namespaceOf(tenant) })).close();
    await mkdir(join(root, "c".repeat(64)));
    await writeFile(join(root, "c".repeat(64), "namespace.json"), "no record");
    const found = await storedNamespaces(configOf(server(), root));
    const digests = found.map((record) => record.namespace.digestHex).sort();
    expect(digests).toEqual(["a", "b"].map((tenant) => namespaceOf(tenant).digestHex).sort());
    expect(found[0]).toMatchObject({ keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES });
  });

  it("refuses a batch beyond its bound, and takes the next", async () => {
    const backend = await open({ queueBlocksMax: 2 });
    const region = filled([1, 2, 3], BLOCK_BYTES);
    const first = backend.store(batchOf([1, 2], region));
    const second = await backend.store(batchOf([3], region));
    expect([second.outcomes[0], outcomeCode(second, 0)]).toEqual([DROPPED, "BUSY"]);
    expect([...(await first).outcomes]).toEqual([STORED, STORED]);
    expect([...(await backend.store(batchOf([3, 3], region))).outcomes]).toEqual([STORED, PRESENT]);
  });

  it("says which folder is wrong", async () => {
    const nowhere = await fail({ root: join(root, "no/such/parent") });
    expect(nowhere).toMatchObject({ code: "CONFIG_INVALID", context: { field: "root" } });
    expect(nowhere.message).toContain(join(root, "no/such/parent"));
    await writeFile(root, "a file");
    expect(await fail({})).toMatchObject({ code: "CONFIG_INVALID", context: { path: root } });
  });

  it.skipIf(!canDeny)("says PERMISSION for a folder that may not be written", async () => {
    await mkdir(root);
    await setWritable(root, false);
    try {
      const error = await fail({});
      expect(error).toMatchObject({ code: "PERMISSION", status: "permanent" });
      expect(error.context.path).toContain(root);
    } finally {
      await setWritable(root, true);
    }
  });
});

describeSshd(
  "sftp over a server without extensions",
  (server) => {
    it("refuses fsync at open, and knows no capacity", async () => {
      const { root, remove } = await makeRoot();
      const context = { namespace, keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES };
      try {
        const strict = new SftpBackend(configOf(server(), root, { fsync: true }));
        await expect(strict.open(context)).rejects.toMatchObject({
          code: "CONFIG_INVALID",
          context: { field: "fsync" },
        });
        const backend = new SftpBackend(configOf(server(), root));
        await backend.open(context);
        expect((await backend.usage()).capacityBytes).toBeUndefined();
        await backend.close();
      } finally {
        await remove();
      }
    });
  },
  { subsystem: "internal-sftp -P posix-rename,statvfs,fstatvfs,fsync,limits,hardlink" },
);
