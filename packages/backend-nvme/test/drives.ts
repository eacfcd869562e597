import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import type { Clock, Namespace } from "@kvferry/core";
import { expect } from "vitest";
import { NvmeBackend, type NvmeDrive, type NvmeDriveConfig, type NvmeDriveHooks, openNvmeDrive } from "../src/index.js";
import { namespaceOf } from "./blocks.js";
import { KEY_BYTES } from "./crash-blocks.mjs";

export const MIB: number = 1024 * 1024;
export const HEADER_BYTES: number = 1_048_576;

/** A folder of its own with a small drive in it. */
export class TestDrive {
  readonly folder: string;
  readonly config: NvmeDriveConfig;
  /** What the drive has warned of; a test that expects something takes it away, for at the end there must be nothing. */
  readonly warnings: string[] = [];
  readonly #hooks: NvmeDriveHooks;
  #drive: NvmeDrive | undefined;
  #backends: NvmeBackend[] = [];

  private constructor(folder: string, config: NvmeDriveConfig, hooks: NvmeDriveHooks) {
    this.folder = folder;
    this.config = config;
    const warn = (facts: object, message: string): void => {
      this.warnings.push(`${message} ${inspect(facts)}`);
    };
    this.#hooks = { logger: { debug() {}, info() {}, warn, error: warn }, ...hooks };
  }

  static async open(config: Partial<NvmeDriveConfig> = {}, hooks: NvmeDriveHooks = {}): Promise<TestDrive> {
    const folder = await mkdtemp(join(tmpdir(), "kvferry-nvme-"));
    const made = new TestDrive(folder, { ...smallDrive(join(folder, "drive")), ...config }, hooks);
    await made.reopen();
    return made;
  }

  get drive(): NvmeDrive {
    return this.#drive as NvmeDrive;
  }

  get file(): string {
    return join(this.config.path, "segments.kvs");
  }

  async fileBytes(): Promise<number> {
    return (await stat(this.file)).size;
  }

  /** Closes it, if it is open, and opens it again. */
  async reopen(changes: Partial<NvmeDriveConfig> = {}): Promise<void> {
    await this.close();
    this.#drive = await openNvmeDrive({ ...this.config, ...changes }, this.#hooks);
  }

  async backend(
    blockBytes: number,
    {
      namespace = namespaceOf(),
      keyBytes = KEY_BYTES,
    }: { readonly namespace?: Namespace; readonly keyBytes?: number } = {},
  ): Promise<NvmeBackend> {
    const backend = new NvmeBackend({ drive: this.drive });
    this.#backends.push(backend);
    await backend.open({ namespace, keyBytes, blockBytes, ...this.#hooks });
    return backend;
  }

  async close(): Promise<void> {
    for (const backend of this.#backends.splice(0)) await backend.close();
    await this.#drive?.close();
    this.#drive = undefined;
  }

  async remove(): Promise<void> {
    await this.close();
    await rm(this.folder, { recursive: true, force: true });
    expect(this.warnings).toEqual([]);
  }
}

/** 8 segments of 512 KiB. */
export function smallDrive(path: string): NvmeDriveConfig {
  return { path, capacityBytes: HEADER_BYTES + 4 * MIB, segmentBytes: MIB / 2 };
}

/** A clock that a test moves. */
export class TestClock implements Clock {
  atMs: number = Date.now();

  nowMs(): number {
    return this.atMs;
  }

  monotonicMs(): number {
    return performance.now();
  }
}
