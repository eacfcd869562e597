import {
  CreateMultipartUploadCommand,
  GetObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from "@aws-sdk/client-s3";
import {
  countOutcome,
  createMemoryRegion,
  decodeFooter,
  FOOTER_BYTES,
  keyHex,
  LookupState,
  Outcome,
  outcomeCode,
  storedBlockBytes,
} from "@kvferry/core";
import { afterEach, beforeEach, expect, it } from "vitest";
import { S3Backend, type S3Config, storedNamespaces } from "../src/index.js";
import { FaultProxy } from "./fault-proxy.js";
import { batchOf, filled, KEY_BYTES, keyOf, keysOf, namespaceOf, sameBytes, until } from "./fixtures.js";
import { describeServers } from "./servers.js";

// What only this backend has; what every backend must do is in conformance.test.ts.

const { LOADED, MISS, PRESENT, REMOVED, STORED } = Outcome;
const MEBIBYTE = 2 ** 20;
const namespace = namespaceOf("specific");
const objectOf = (id: number, prefix = "cache"): string => {
  const hex = keyHex(keyOf(id));
  return `${prefix}/${namespace.digestHex}/${hex.slice(0, 2)}/${hex}`;
};
const numbers = (count: number, first = 0): number[] => Array.from({ length: count }, (_, i) => first + i);

describeServers("s3", (server, name) => {
  let bucket: string;
  const opened: S3Backend[] = [];

  async function open(blockBytes: number, more: Partial<S3Config> = {}, tenant = "specific"): Promise<S3Backend> {
    const backend = new S3Backend(server().config(bucket, more));
    opened.push(backend);
    await backend.open({ namespace: namespaceOf(tenant), keyBytes: KEY_BYTES, blockBytes });
    return backend;
  }

  async function objects(prefix = ""): Promise<string[]> {
    const names: string[] = [];
    let ContinuationToken: string | undefined;
    do {
      const page = await server().admin.send(
        new ListObjectsV2Command({ Bucket: bucket, Prefix: prefix, ContinuationToken }),
      );
      names.push(...(page.Contents ?? []).map(({ Key = "" }) => Key));
      ContinuationToken = page.NextContinuationToken;
    } while (ContinuationToken !== undefined);
    return names;
  }

  /** Unfinished uploads of an object. MinIO lists those of an exact name only. */
  async function uploads(Prefix: string): Promise<number> {
    const { Uploads = [] } = await server().admin.send(new ListMultipartUploadsCommand({ Bucket: bucket, Prefix }));
    return Uploads.length;
  }

  beforeEach(async () => {
    bucket = await server().bucket();
  });

  afterEach(async () => {
    await Promise.all(opened.splice(0).map((each) => each.close()));
  });

  it("sounds no alarm of leaking memory over a batch that one signal can end", async () => {
    const warnings: string[] = [];
    const heard = ({ message }: Error): number => warnings.push(message);
    process.on("warning", heard);
    try {
      const backend = await open(5000);
      const ids = numbers(40);
      const { signal } = new AbortController();
      await backend.store(batchOf(ids, filled(ids, 5000)), { signal });
      await backend.load(batchOf(ids, createMemoryRegion(ids.length, 5000)), { signal });
      await new Promise((done) => setImmediate(done)); // warnings come a tick later
    } finally {
      process.off("warning", heard);
    }
    expect(warnings.filter((words) => words.includes("listeners"))).toEqual([]);
  });

  it("names objects after namespace and key, and writes the block format", async () => {
    const backend = await open(5000);
    await backend.store(batchOf([1], filled([1], 5000)));
    const description = `cache/${namespace.digestHex}/namespace.json`;
    expect(await objects()).toEqual([objectOf(1), description].sort());
    const stored = await fetchBytes(server().admin, bucket, objectOf(1));
    expect(stored.length).toBe(storedBlockBytes(5000));
    const footer = decodeFooter(stored.subarray(stored.length - FOOTER_BYTES));
    expect(footer).toMatchObject({ payloadBytes: 5000, formatVersion: 1, codec: 0, checksumKind: 1 });
    expect(sameBytes(footer?.key as Uint8Array, keyOf(1))).toBe(true);
  });

  it("large blocks go up in parts and come back in ranges, whole", async () => {
    const blockBytes = 12 * MEBIBYTE + 100;
    const parts = { partBytes: 5 * MEBIBYTE, multipartFromBytes: 1, rangeFromBytes: 1 };
    const backend = await open(blockBytes, parts);
    const region = filled([1, 2], blockBytes);
    expect([...(await backend.store(batchOf([1, 2], region))).outcomes]).toEqual([STORED, STORED]);
    expect(await uploads(objectOf(1))).toBe(0);
    const into = createMemoryRegion(2, blockBytes);
    expect([...(await backend.load(batchOf([1, 2], into))).outcomes]).toEqual([LOADED, LOADED]);
    expect(sameBytes(into.bytes, region.bytes)).toBe(true);
    const whole = await open(blockBytes); // the same object, read in one piece
    into.bytes.fill(0);
    expect([...(await whole.load(batchOf([1, 2], into))).outcomes]).toEqual([LOADED, LOADED]);
    expect(sameBytes(into.bytes, region.bytes)).toBe(true);
    const again = await open(blockBytes, { ...parts, prefix: "elsewhere" });
    const other = await open(blockBytes, { ...parts, prefix: "elsewhere" });
    const both = await Promise.all([again.store(batchOf([1], region)), other.store(batchOf([1], region))]);
    const outcomes = both.map((each) => each.outcomes[0]);
    expect(outcomes.every((each) => each === STORED || each === PRESENT) && outcomes.includes(STORED)).toBe(true);
    await Promise.all([again.close(), other.close()]);
    expect(await uploads(objectOf(1, "elsewhere"))).toBe(0); // the loser's parts are gone
  });

  it("a large block that is damaged, cut short or longer is CORRUPT", async () => {
    const blockBytes = 11 * MEBIBYTE;
    const backend = await open(blockBytes, { partBytes: 5 * MEBIBYTE, multipartFromBytes: 1, rangeFromBytes: 1 });
    const edits: ((bytes: Uint8Array) => Uint8Array)[] = [
      (bytes) => bytes.fill(1, 6 * MEBIBYTE, 6 * MEBIBYTE + 1),
      (bytes) => bytes.subarray(0, 3 * MEBIBYTE),
      (bytes) => bytes.subarray(0, 0),
      (bytes) => Buffer.concat([bytes, Uint8Array.of(0)]),
    ];
    for (const edit of edits) {
      await backend.store(batchOf([1], filled([1], blockBytes)));
      await putBytes(server().admin, bucket, objectOf(1), edit(await fetchBytes(server().admin, bucket, objectOf(1))));
      const result = await backend.load(batchOf([1], createMemoryRegion(1, blockBytes)));
      expect(outcomeCode(result, 0)).toBe("CORRUPT");
      expect([...(await backend.lookup(keysOf([1])))]).toEqual([LookupState.MISS]);
    }
    expect((await objects(`cache/${namespace.digestHex}/quarantine/`)).length).toBe(edits.length);
  });

  it("an upload in parts that is aborted leaves no parts behind", async () => {
    const blockBytes = 16 * MEBIBYTE;
    const proxy = new FaultProxy(server().server.port);
    const endpoint = await proxy.start();
    const backend = await open(blockBytes, { endpoint, partBytes: 5 * MEBIBYTE, multipartFromBytes: 1 });
    proxy.fault = ({ url }) => (url.includes("partNumber=3") ? { kind: "hang" } : undefined);
    const controller = new AbortController();
    const region = filled([1], blockBytes);
    const storing = backend.store(batchOf([1], region), { signal: controller.signal });
    await until(() => proxy.seen.some(({ url }) => url.includes("partNumber=3")));
    controller.abort();
    expect(outcomeCode(await storing, 0)).toBe("ABORTED");
    proxy.fault = ({ url }) =>
      url.includes("partNumber=2") ? { kind: "answer", status: 503, code: "SlowDown" } : undefined;
    expect(outcomeCode(await backend.store(batchOf([1], region)), 0)).toBe("BUSY");
    await backend.close(); // waits for what it has to clean up
    expect(await uploads(objectOf(1))).toBe(0);
    await proxy.stop();
  });

  // MinIO cannot list them by prefix, and aborts them itself after a day
  it.skipIf(name === "minio")(
    "others' unfinished uploads are aborted at open once they are old, those of the namespace",
    async () => {
      const [own, foreign] = [objectOf(1), "cache/other/00/0011"];
      for (const Key of [own, foreign]) {
        await server().admin.send(new CreateMultipartUploadCommand({ Bucket: bucket, Key }));
      }
      await (await open(4096)).close();
      expect(await uploads("cache/")).toBe(2); // a day has not passed
      await new Promise((done) => setTimeout(done, 1100)); // the server's times have seconds
      const backend = await open(4096, { uploadLeftoverMs: 0 });
      await until(async () => (await uploads(own)) === 0);
      expect(await uploads(foreign)).toBe(1);
      await backend.close();
    },
  );

  it("scan, usage and lookups know every block beyond one page, also after opening again", async () => {
    const ids = numbers(1300);
    const backend = await open(64);
    const region = filled(ids.slice(0, 1), 64);
    const slots = new Uint32Array(ids.length);
    expect(countOutcome(await backend.store({ keys: keysOf(ids), region, slots }), STORED)).toBe(ids.length);
    const again = await open(64);
    const listed = new Set<string>();
    for await (const page of again.scan({ pageEntriesMax: 500 })) {
      expect(page.length).toBeLessThanOrEqual(500);
      for (const { key } of page) {
        expect(listed.has(keyHex(key))).toBe(false);
        listed.add(keyHex(key));
      }
    }
    expect(listed).toEqual(new Set(ids.map((id) => keyHex(keyOf(id)))));
    expect(await again.usage()).toMatchObject({ blocks: ids.length, bytes: ids.length * storedBlockBytes(64) });
    expect(again.lookupNow(keysOf(ids))?.every((state) => state === LookupState.HIT)).toBe(true);
    const removed = await again.remove(keysOf(ids.slice(0, 1100)));
    expect(countOutcome(removed, REMOVED)).toBe(1100);
    expect((await again.usage()).blocks).toBe(200);
    expect((await objects(`cache/${namespace.digestHex}/`)).length).toBe(201); // and the description
  }, 60_000);

  it("namespaces and prefixes never meet", async () => {
    const [a, b, c] = [await open(64), await open(64, {}, "other"), await open(64, { prefix: "cache2" })] as const;
    await a.store(batchOf([1], filled([1], 64)));
    for (const stranger of [b, c]) {
      expect([...(await stranger.lookup(keysOf([1])))]).toEqual([LookupState.MISS]);
      expect([...(await stranger.load(batchOf([1], createMemoryRegion(1, 64)))).outcomes]).toEqual([MISS]);
      expect([...(await stranger.remove(keysOf([1]))).outcomes]).toEqual([MISS]);
      for await (const page of stranger.scan()) expect(page).toEqual([]);
    }
    expect([...(await a.load(batchOf([1], createMemoryRegion(1, 64)))).outcomes]).toEqual([LOADED]);
  });

  it("tools find every namespace, and nothing else that lies in the bucket", async () => {
    await (await open(64)).store(batchOf([1], filled([1], 64)));
    await open(4096, {}, "other");
    await open(64, { prefix: "cache2" }, "elsewhere");
    for (const stranger of ["cache/a", "cache/zz/b", `cache/${"0".repeat(64)}/namespace.json`, "other/c"]) {
      await server().admin.send(new PutObjectCommand({ Bucket: bucket, Key: stranger, Body: "{}" }));
    }
    const found = await storedNamespaces(server().config(bucket));
    const shapes = found.map(({ namespace: { digestHex }, keyBytes, blockBytes }) => [digestHex, keyBytes, blockBytes]);
    const wanted = [
      [namespace.digestHex, KEY_BYTES, 64],
      [namespaceOf("other").digestHex, KEY_BYTES, 4096],
    ];
    expect(shapes.sort()).toEqual(wanted.sort());
  });

  it("two writers of one key at once: one block, which is whole, and nobody fails", async () => {
    const backends = await Promise.all(numbers(4).map(() => open(100_000)));
    for (let round = 0; round < 10; round++) {
      const batch = batchOf([round], filled([round], 100_000));
      const results = await Promise.all(backends.map((each) => each.store(batch)));
      const outcomes = results.map((each) => each.outcomes[0] as number);
      expect(outcomes.every((each) => each === STORED || each === PRESENT)).toBe(true);
      expect(outcomes.filter((each) => each === STORED).length).toBe(1);
      const into = createMemoryRegion(1, 100_000);
      expect((await (backends[0] as S3Backend).load(batchOf([round], into))).outcomes[0]).toBe(LOADED);
      expect(sameBytes(into.bytes, batch.region.bytes)).toBe(true);
    }
  });

  it("a lookup asks for what others may have stored, and not for all of a long request", async () => {
    const proxy = new FaultProxy(server().server.port);
    const endpoint = await proxy.start();
    const reader = await open(64, { endpoint, missTtlMs: 60_000 });
    const writer = await open(64);
    await writer.store({ keys: keysOf(numbers(40)), region: filled([0], 64), slots: new Uint32Array(40) });
    const heads = (): number => proxy.seen.filter(({ method }) => method === "HEAD").length;
    const states = await reader.lookup(keysOf(numbers(1000)));
    expect([...states.subarray(0, 40)].every((state) => state === LookupState.HIT)).toBe(true);
    expect(states.subarray(40).every((state) => state === LookupState.MISS)).toBe(true);
    expect(heads()).toBeLessThan(140);
    const before = heads();
    expect(reader.lookupNow(keysOf(numbers(1000)))).toEqual(states); // all of it is in memory now
    await reader.lookup(keysOf(numbers(1000)));
    expect(heads()).toBe(before);
    await reader.store(batchOf([40], filled([40], 64))); // one's own block is known at once
    expect([...(await reader.lookup(keysOf([39, 40, 41])))]).toEqual([1, 1, 0]);
    await reader.close();
    await proxy.stop();
  });

  it("a block that another host has removed is a MISS, and is forgotten", async () => {
    const [a, b] = [await open(64), await open(64)];
    await a.store(batchOf([1], filled([1], 64)));
    await b.remove(keysOf([1]));
    expect([...(await a.load(batchOf([1], createMemoryRegion(1, 64)))).outcomes]).toEqual([MISS]);
    expect([...(await a.lookup(keysOf([1])))]).toEqual([LookupState.MISS]);
    expect([...(await a.store(batchOf([1], filled([1], 64)))).outcomes]).toEqual([STORED]);
  });

  it("the quarantine keeps the newest", async () => {
    const backend = await open(64, { quarantineObjectsMax: 2 });
    const heard: string[] = [];
    backend.onRemoved((keys, reason) => heard.push(`${keyHex(keys.bytes)} ${reason}`));
    for (const id of [1, 2, 3]) {
      await backend.store(batchOf([id], filled([id], 64)));
      await putBytes(server().admin, bucket, objectOf(id), new Uint8Array(9));
      await backend.load(batchOf([id], createMemoryRegion(1, 64)));
      await new Promise((done) => setTimeout(done, 2));
    }
    expect(heard).toEqual([1, 2, 3].map((id) => `${keyHex(keyOf(id))} corrupt`));
    const kept = await objects(`cache/${namespace.digestHex}/quarantine/`);
    expect(kept.map((name) => name.split("-")[1])).toEqual([2, 3].map((id) => keyHex(keyOf(id))));
  });

  it("a batch beyond the queue is refused with BUSY", async () => {
    const backend = await open(64, { queueBlocksMax: 8 });
    const region = filled([0], 64);
    const first = backend.store({ keys: keysOf(numbers(8)), region, slots: new Uint32Array(8) });
    const second = await backend.store({ keys: keysOf(numbers(4, 50)), region, slots: new Uint32Array(4) });
    expect(outcomeCode(second, 0)).toBe("BUSY");
    expect(countOutcome(await first, STORED)).toBe(8);
  });
});

async function fetchBytes(admin: S3Client, Bucket: string, Key: string): Promise<Uint8Array> {
  const { Body } = await admin.send(new GetObjectCommand({ Bucket, Key }));
  return (Body as { transformToByteArray(): Promise<Uint8Array> }).transformToByteArray();
}

async function putBytes(admin: S3Client, Bucket: string, Key: string, Body: Uint8Array): Promise<void> {
  await admin.send(new PutObjectCommand({ Bucket, Key, Body }));
}
