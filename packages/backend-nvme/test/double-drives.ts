import type { Logger } from "@kvferry/core";
import { resolveDriveConfig } from "../src/config.js";
import { NvmeDrive } from "../src/drive.js";
import { NvmeBackend } from "../src/index.js";
import { namespaceOf } from "./blocks.js";
import { KEY_BYTES } from "./crash-blocks.mjs";
import { DriveDouble } from "./drive-double.js";

export interface DoubleDrive {
  readonly double: DriveDouble;
  readonly drive: NvmeDrive;
  readonly backend: NvmeBackend;
  readonly warnings: string[];
  close(): Promise<void>;
}

export interface DoubleOptions {
  readonly segments?: number;
  readonly segmentBytes?: number;
  readonly blockBytes?: number;
}

/** A backend over a drive that does what a test wants; by default of 6 segments of 256 KiB and blocks of 8 KiB. */
export async function openDouble({
  segments = 6,
  segmentBytes = 256 * 1024,
  blockBytes = 8192,
}: DoubleOptions = {}): Promise<DoubleDrive> {
  const double = new DriveDouble(segmentBytes, segments);
  const warnings: string[] = [];
  const warn = (_facts: object, message: string): void => void warnings.push(message);
  const logger: Logger = { debug() {}, info() {}, warn, error: warn };
  const capacityBytes = 2 ** 20 + segmentBytes * segments;
  const drive = new NvmeDrive(resolveDriveConfig({ path: "/double", capacityBytes, segmentBytes }, { logger }), double);
  await drive.recover();
  const backend = new NvmeBackend({ drive });
  await backend.open({ namespace: namespaceOf(), keyBytes: KEY_BYTES, blockBytes });
  const close = async (): Promise<void> => {
    await backend.close();
    await drive.close();
  };
  return { double, drive, backend, warnings, close };
}
