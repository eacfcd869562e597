import { mkdir, realpath } from "node:fs/promises";
import { join } from "node:path";
import {
  type Clock,
  type Logger,
  newWriterName,
  type OpenRoot,
  type PolicyFactory,
  RootRegistry,
  SharedRoot,
  SWIFT_PACE,
  writerHasEnded,
} from "@kvferry/core";
import { createFileEngine, type FileEngine } from "@kvferry/native";
import { NativeBlockRoot, removeDeadScratch, scratchFolder } from "./block-root.js";
import { openCapacityFiles } from "./files.js";
import { SavedIndexes } from "./indexes.js";

/** The capacity of a root as one process has it configured. */
export interface RootCapacity {
  /** Absolute path. */
  readonly root: string;
  readonly capacityBytes: number;
  readonly filesMax?: number | undefined;
  /** Bytes a tenant. */
  readonly quotas: ReadonlyMap<string, number>;
  readonly policy: PolicyFactory;
  readonly fileMode: number;
  readonly folderMode: number;
  /** To share; whoever made it closes it. */
  readonly engine?: FileEngine | undefined;
  readonly logger: Logger;
  readonly clock: Clock;
}

const roots = new RootRegistry();

/** The process's share in a root: the same for all who ask, as the first one has configured it. Each gives it back by `releaseRoot`. */
export async function acquireRoot(options: RootCapacity): Promise<SharedRoot> {
  await mkdir(options.root, { recursive: true, mode: options.folderMode });
  return roots.acquire(await realpath(options.root), () => openRoot(options));
}

export function releaseRoot(root: SharedRoot): Promise<void> {
  return roots.release(root);
}

async function openRoot(options: RootCapacity): Promise<OpenRoot> {
  const { root, capacityBytes, filesMax, fileMode, folderMode, clock } = options;
  const folder = join(root, "capacity");
  const writer = newWriterName();
  const files = await openCapacityFiles({ folder, writer, fileMode, folderMode });
  await removeDeadScratch(folder);
  const engine = options.engine ?? createFileEngine({ threads: 2 });
  const scratch = scratchFolder(folder, writer);
  const blocks = new NativeBlockRoot({ ...options, engine, writer, scratch, nowMs: () => clock.nowMs() });
  const shared = new SharedRoot({
    ...options,
    ...{ place: root, writer, files, blocks, pace: SWIFT_PACE, hasEnded: writerHasEnded },
    capacity: { bytes: capacityBytes, files: filesMax ?? Number.POSITIVE_INFINITY },
    indexesOf: (epoch, warn) => new SavedIndexes({ folder, epoch, clock, warn }),
  });
  shared.start();
  return {
    shared,
    async close() {
      await shared.close();
      await blocks.close();
      if (options.engine === undefined) await engine.close();
    },
  };
}
