import { open, rename, rm } from "node:fs/promises";
import type { Checksum } from "../../crc32c.js";
import { type BlockRecords, CHUNK_ROWS } from "../block-records.js";
import { FILE_MODE, snapshotPath, syncFolder, writeAll } from "./files.js";
import { FrameKind, finishFrame, frameBody, jsonFrame, newFrame } from "./frames.js";
import type { FileHead, SnapshotEnd } from "./recovery.js";

export interface SnapshotPlan {
  readonly folder: string;
  readonly generation: number;
  readonly head: FileHead;
  readonly records: BlockRecords;
  readonly checksum: Checksum;
  /** Called when all rows are in the file: makes the log's frames so far last; how many must be read with the snapshot. */
  readonly sealLog: () => Promise<number>;
}

/**
 * Writes the records of all rows there are now, chunk by chunk; between them the event loop goes on and records change. That does no harm: whatever
 * changes is in the log, which began at the same moment as this. The file has its name only when it is whole. Its bytes.
 */
export async function writeSnapshot(plan: SnapshotPlan): Promise<number> {
  const { folder, generation, records, checksum } = plan;
  const path = snapshotPath(folder, generation);
  const temporary = `${path}.tmp`;
  const { rowLimit } = records;
  const file = await open(temporary, "w", FILE_MODE);
  try {
    let bytes = 0;
    let number = 0;
    const write = async (frame: Uint8Array): Promise<void> => {
      await writeAll(file, frame, bytes);
      bytes += frame.length;
      number++;
    };
    const header = { generation, argument: 0 };
    await write(jsonFrame({ ...plan.head, rowLimit }, { ...header, kind: FrameKind.SNAPSHOT_HEAD, number }, checksum));
    const frame = newFrame(CHUNK_ROWS * records.recordWords);
    for (let first = 0; first < rowLimit; first += CHUNK_ROWS) {
      const words = Math.min(CHUNK_ROWS, rowLimit - first) * records.recordWords;
      frameBody(frame).set(records.chunk(first).subarray(0, words));
      await write(finishFrame(frame, words, { kind: FrameKind.ROWS, generation, number, argument: first }, checksum));
    }
    const end: SnapshotEnd = { frames: await plan.sealLog() };
    await write(jsonFrame(end, { ...header, kind: FrameKind.SNAPSHOT_END, number }, checksum));
    await file.sync();
    await file.close();
    await rename(temporary, path);
    await syncFolder(folder);
    return bytes;
  } catch (error) {
    await file.close().catch(() => {}); // the first error tells more
    await rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}
