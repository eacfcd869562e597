import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach } from "vitest";
import type { FileStoreOptions } from "../src/index.js";
import { platformName } from "../src/load.js";

/** Numbers of core's Outcome and ERROR_CODES. */
export const FAILED = 0;
export const STORED = 1;
export const PRESENT = 2;
export const LOADED = 4;
export const MISS = 5;
export const CORRUPT = 6;
export const REMOVED = 7;
export const CLOSED_CODE = 5;
export const ABORTED_CODE = 6;
export const DEADLINE_CODE = 7;
export const BUSY_CODE = 8;
export const REGION_GONE_CODE = 15;
export const DEVICE_LOST_CODE = 21;
export const DEVICE_FAILED_CODE = 22;

/** The addon as this repository's build leaves it, for processes that load it without the loader. */
export const addonPath: string = fileURLToPath(new URL(`../prebuilds/${platformName()}/kvferry.node`, import.meta.url));

const KEY_BYTES = 36;

const folders: string[] = [];

/** A folder that is removed after the test. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), "kvferry-native-"));
  folders.push(folder);
  return folder;
}

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
});

export function storeOptions(folder: string, blockBytes: number): FileStoreOptions {
  return {
    blocksFolder: join(folder, "blocks"),
    tmpFolder: join(folder, "tmp/writer"),
    quarantineFolder: join(folder, "quarantine"),
    quarantineFilesMax: 64,
    layout: "vllm-fs",
    namespaceDigest: new Uint8Array(32).fill(0xd1),
    writer: "host-1-2-3",
    keyBytes: KEY_BYTES,
    blockBytes,
    fileMode: 0o600,
    folderMode: 0o700,
    fsync: false,
    adopt: false,
    direct: "auto",
    publish: "auto",
  };
}

/** Keys `from` … `from + count - 1`, packed. */
export function keysOf(count: number, from = 0): Uint8Array {
  const keys = Buffer.alloc(count * KEY_BYTES);
  for (let i = 0; i < count; i++) {
    keys.fill((from + i) * 37, i * KEY_BYTES, i * KEY_BYTES + 32);
    keys.writeUInt32LE(from + i, i * KEY_BYTES + 8);
  }
  return new Uint8Array(keys);
}

export function slotsOf(count: number, from = 0): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => from + i);
}

export function count(values: Uint8Array, value: number): number {
  return values.filter((each) => each === value).length;
}

/** The `code` of what `action` throws. */
export function codeOf(action: () => unknown): unknown {
  try {
    action();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return undefined;
}
