import { Agent } from "node:http";
import { DeleteObjectsCommand, GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { S3Backend } from "@kvferry/backend-s3";
import { countOutcome, createMemoryRegion, createNamespace, Outcome, packKeys } from "@kvferry/core";

const KEY_BYTES = 36;

/** What all contenders move: the same region, `blocks` blocks of pseudo-random bytes. */
export function makeWorkload(options) {
  const { blockBytes, blocks } = options;
  const region = createMemoryRegion(blocks, blockBytes);
  const words = new Uint32Array(region.bytes.buffer, 0, (blocks * blockBytes) >> 2);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = state;
  }
  return { ...options, memory: region, bytes: blocks * blockBytes };
}

async function kvferry({ bucket, endpoint, region, concurrency, blockBytes, blocks, memory }) {
  const backend = new S3Backend({ bucket, endpoint, region, socketsMax: concurrency, prefix: `b${blockBytes}` });
  await backend.open({ namespace: namespace(), keyBytes: KEY_BYTES, blockBytes });
  const slots = Uint32Array.from({ length: blocks }, (_, i) => i);
  let round = 0;
  let keys;
  const expect = (result, outcome) => {
    if (countOutcome(result, outcome) !== blocks) throw new Error(`not all blocks: ${result.outcomes} ${result.codes}`);
  };
  return {
    async store() {
      keys = packKeys(Array.from({ length: blocks }, (_, i) => keyOf(round, i)));
      round++;
      expect(await backend.store({ keys, region: memory, slots }), Outcome.STORED);
    },
    load: async () => expect(await backend.load({ keys, region: memory, slots }), Outcome.LOADED),
    clear: async () => expect(await backend.remove(keys), Outcome.REMOVED),
    close: () => backend.close(),
  };
}

function sdkLoop({ lean }) {
  return async ({ bucket: Bucket, endpoint, region, concurrency, blockBytes, blocks, memory }) => {
    const httpAgent = new Agent({ keepAlive: true, maxSockets: concurrency });
    const client = new S3Client({
      ...{ endpoint, region, forcePathStyle: true, maxAttempts: 1, requestHandler: { httpAgent } },
      ...(lean && { requestChecksumCalculation: "WHEN_REQUIRED", responseChecksumValidation: "WHEN_REQUIRED" }),
    });
    if (lean) client.middlewareStack.add(unsigned, { step: "build" });
    const slotOf = (i) => Buffer.from(memory.bytes.buffer, i * blockBytes, blockBytes);
    const nameOf = (i) => `sdk/${lean ? "lean" : "plain"}/${blockBytes}/${i}`;
    return {
      store: () =>
        each(blocks, concurrency, (i) =>
          client.send(new PutObjectCommand({ Bucket, Key: nameOf(i), Body: slotOf(i) })),
        ),
      load: () =>
        each(blocks, concurrency, async (i) => {
          const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: nameOf(i) }));
          if (lean) await copyInto(Body, slotOf(i));
          else await Body.transformToByteArray();
        }),
      async clear() {
        for (let at = 0; at < blocks; at += 1000) {
          const count = Math.min(1000, blocks - at);
          const Objects = Array.from({ length: count }, (_, i) => ({ Key: nameOf(at + i) }));
          await client.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects, Quiet: true } }));
        }
      },
      close: async () => client.destroy(),
    };
  };
}

export const CONTENDERS = { kvferry, sdk: sdkLoop({ lean: false }), "sdk-lean": sdkLoop({ lean: true }) };

function unsigned(next) {
  return (args) => {
    args.request.headers["x-amz-content-sha256"] = "UNSIGNED-PAYLOAD";
    return next(args);
  };
}

function copyInto(stream, slot) {
  return new Promise((resolve, reject) => {
    let at = 0;
    stream.on("data", (chunk) => {
      slot.set(chunk, at);
      at += chunk.length;
    });
    stream.on("end", resolve);
    stream.on("error", reject);
  });
}

async function each(count, atOnce, step) {
  let next = 0;
  const work = async () => {
    while (next < count) await step(next++);
  };
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, work));
}

function keyOf(round, i) {
  const key = new Uint8Array(KEY_BYTES);
  const view = new DataView(key.buffer);
  view.setUint32(0, Math.imul(i + 1, 0x9e3779b1));
  view.setUint32(4, i);
  view.setUint32(8, round);
  return key;
}

function namespace() {
  return createNamespace({
    ...{ model: "benchmark", weights: "00".repeat(32), dtype: "bfloat16", kvDtype: "auto", layout: "benchmark" },
    ...{ tokensPerHash: 16, blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["0"] }], parallel: null },
    ...{ engine: "benchmark", engineVersion: "1", formatVersion: 1, tenant: "" },
  });
}
