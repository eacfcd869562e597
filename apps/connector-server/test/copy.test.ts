// Moving a fleet's cache: what arrives is what was there, however often and however hard the copy was stopped.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type KeyBatch, keyAt, keyHex, selectKeys } from "@kvferry/core";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { type S3Server, s3ServerBinary } from "../../../scripts/lib/s3-servers.mjs";
import { run, serveConfig, start } from "./child-server.js";
import { BLOCK_BYTES, connect, fill, randomKeys, range, scratch, until } from "./helpers.js";
import {
  leaveVllmFiles,
  NAMESPACE,
  nvmeStorage,
  posixStorage,
  present,
  put,
  s3Storage,
  sound,
  startVersitygw,
  type TestStorage,
  vllmStorage,
} from "./storages.js";

const TIMEOUT_MS = 120_000;
const hasS3 = s3ServerBinary("versitygw") !== undefined;
let server: S3Server | undefined;

beforeAll(async () => {
  if (hasS3) server = await startVersitygw();
}, TIMEOUT_MS);
afterAll(() => server?.stop(), TIMEOUT_MS);

interface Row {
  readonly listedBlocks: number;
  readonly skippedBlocks: number;
  readonly copiedBlocks: number;
  readonly readBytes: number;
  readonly corruptBlocks: number;
  readonly missedBlocks: number;
  readonly droppedBlocks: number;
  readonly failedBlocks: number;
  readonly verifiedBlocks: number;
}

const NONE = { corruptBlocks: 0, missedBlocks: 0, droppedBlocks: 0, failedBlocks: 0 };

async function copy(from: TestStorage, to: TestStorage, flags: readonly string[] = []) {
  const ended = await run(["copy", from.argument, to.argument, "--json", ...flags], { ...from.env, ...to.env });
  const result = ended.stdout === "" ? undefined : JSON.parse(ended.stdout);
  return { ...ended, row: result?.namespaces[0] as Row };
}

type Kind = "posix" | "vllm-fs" | "nvme" | "s3";
const KINDS: readonly Kind[] = ["posix", "vllm-fs", "nvme", "s3"];

async function storageOf(kind: Kind): Promise<TestStorage> {
  if (kind === "posix") return posixStorage();
  if (kind === "nvme") return nvmeStorage();
  return kind === "s3" ? s3Storage(server as S3Server) : vllmStorage();
}

/** A storage that holds the blocks; in vLLM's directory they are files of vLLM's own. */
async function filled(kind: Kind, keys: KeyBatch): Promise<TestStorage> {
  if (kind === "vllm-fs") {
    const root = join(scratch(), "vllm");
    leaveVllmFiles(root, keys);
    return vllmStorage(root);
  }
  const storage = await storageOf(kind);
  await put(storage, keys);
  return storage;
}

describe("kvferry copy", { timeout: TIMEOUT_MS }, () => {
  for (const from of KINDS) {
    for (const to of KINDS) {
      const needsS3 = from === "s3" || to === "s3";
      it.skipIf(needsS3 && !hasS3)(`moves every byte from ${from} to ${to}, once`, async () => {
        const keys = randomKeys(40);
        const [source, target] = [await filled(from, keys), await storageOf(to)];
        const first = await copy(source, target, ["--verify"]);
        expect(first).toMatchObject({ code: 0, stderr: expect.not.stringContaining("kvferry:") });
        const bytes = 40 * BLOCK_BYTES;
        const all = { listedBlocks: 40, copiedBlocks: 40, skippedBlocks: 0, readBytes: bytes, verifiedBlocks: 40 };
        expect(first.row).toMatchObject({ ...NONE, ...all });
        expect(await sound(target, keys)).toHaveLength(40);
        const again = await copy(source, target);
        expect(again).toMatchObject({ code: 0, row: { ...NONE, copiedBlocks: 0, skippedBlocks: 40, readBytes: 0 } });
        // tools find the namespace in TO
        const { code, stdout } = await run(["copy", target.argument, posixStorage().argument, "--dry-run"], target.env);
        expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining("40 blocks to copy") });
      });
    }
  }
});
