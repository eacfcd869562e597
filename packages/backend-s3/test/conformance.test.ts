import {
  CreateMultipartUploadCommand,
  GetObjectCommand,
  PutObjectCommand,
  UploadPartCommand,
} from "@aws-sdk/client-s3";
import { keyHex } from "@kvferry/core";
import { type CreatedBackend, conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { S3Backend, type S3Config } from "../src/index.js";
import { TEST_PACE } from "./capacity/pace.mjs";
import { describeServers, type TestServer } from "./servers.js";

describeServers("s3", (server, name) => {
  conformance({
    name: `s3 on ${name}`,
    test: { describe, it },
    caseTimeoutMs: 60_000,
    factory: { create: () => create(server(), name, {}) },
  });
  conformance({
    name: `s3 on ${name}, with a capacity`,
    test: { describe, it },
    caseTimeoutMs: 60_000,
    factory: { create: () => create(server(), name, { capacityBytes: 2 ** 30 }) },
  });
});

async function create(server: TestServer, name: string, more: Partial<S3Config>): Promise<CreatedBackend> {
  const Bucket = await server.bucket();
  const backend = new S3Backend(server.config(Bucket, more), TEST_PACE);
  const nameOf = (key: Uint8Array): string => {
    const hex = keyHex(key);
    return `cache/${backend.context.namespace.digestHex}/${hex.slice(0, 2)}/${hex}`;
  };
  const change = async (key: Uint8Array, edit: (bytes: Uint8Array) => Uint8Array): Promise<void> => {
    const { Body } = await server.admin.send(new GetObjectCommand({ Bucket, Key: nameOf(key) }));
    const bytes = await (Body as { transformToByteArray(): Promise<Uint8Array> }).transformToByteArray();
    await server.admin.send(new PutObjectCommand({ Bucket, Key: nameOf(key), Body: edit(bytes) }));
  };
  const limitless = "the server has no quota; faults.test.ts answers for it";
  return {
    backend,
    reopen: async () => new S3Backend(server.config(Bucket, more), TEST_PACE),
    damage: {
      flip: (key, at) =>
        change(key, (bytes) => {
          bytes[at] = (bytes[at] as number) ^ 1;
          return bytes;
        }),
      truncate: (key, length) => change(key, (bytes) => bytes.subarray(0, length)),
      leaveTempFile: async () => {
        const Key = nameOf(new Uint8Array(backend.context.keyBytes).fill(7));
        const { UploadId } = await server.admin.send(new CreateMultipartUploadCommand({ Bucket, Key }));
        await server.admin.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: 1, Body: "half a bl" }));
      },
      ...(name === "versitygw" && {
        denyPermission: () => server.allow(Bucket, ["s3:PutObject"]),
        restore: () => server.allow(Bucket),
      }),
      impossible: { noSpace: limitless, denyPermission: "MinIO's users are made by a client of its own" },
    },
    cleanup: async () => {},
  };
}
