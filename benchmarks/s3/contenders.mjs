import { Agent } from "node:http";
import { DeleteObjectsCommand, GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { S3Backend } from "@kvferry/backend-s3";
import { each, openContender } from "../lib/contest.mjs";

async function kvferry(workload) {
  const { bucket, endpoint, region, concurrency, blockBytes } = workload;
  const backend = new S3Backend({ bucket, endpoint, region, socketsMax: concurrency, prefix: `b${blockBytes}` });
  return openContender(backend, workload);
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
