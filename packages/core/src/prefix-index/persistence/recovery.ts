import { open } from "node:fs/promises";
import type { Checksum } from "../../crc32c.js";
import { KvferryError } from "../../errors.js";
import { BlockRecords, CHUNK_ROWS, ROWS_MAX } from "../block-records.js";
import { applyChanges } from "./changes.js";
import { type Generations, listGenerations, logPath, snapshotPath } from "./files.js";
import { type Frame, FrameKind, FrameReader, jsonOf } from "./frames.js";

/** First in every file: whose it is, and how to read it. */
export interface FileHead {
  readonly keyBytes: number;
  /** Hex. */
  readonly identity: string;
  readonly epochMs: number;
  /** Of a log: it begins with an empty index, not with what came before. */
  readonly empty?: boolean;
  /** Of a snapshot: rows that it holds. */
  readonly rowLimit?: number;
}

/** Last in a snapshot. */
export interface SnapshotEnd {
  /** It is of one moment only together with the log's frames below this number. */
  readonly frames: number;
}

/** What a folder held. */
export interface RecoveryReport {
  /** Blocks that are in the index again. */
  readonly blocks: number;
  /** Frames of logs that were applied. */
  readonly frames: number;
  /** Bytes at the ends of logs that were not whole and were cut off. */
  readonly cutBytes: number;
  /** Files that could not be used: damaged, of another version, or not connected to the rest. */
  readonly unusableFiles: number;
  /** The log ended before the snapshot did: links between blocks are forgotten, tiers may be those of another moment. */
  readonly damaged: boolean;
  readonly seconds: number;
}

/** Where the log goes on. */
interface LogEnd {
  readonly generation: number;
  readonly bytes: number;
}

export interface Recovered {
  readonly records: BlockRecords;
  readonly epochMs: number | undefined;
  readonly damaged: boolean;
  readonly frames: number;
  readonly cutBytes: number;
  readonly unusableFiles: number;
  /** Undefined where there is no log that could be continued. */
  readonly log: LogEnd | undefined;
  /** Number of the next frame. */
  readonly nextFrame: number;
  readonly generationMax: number;
}

export interface Source {
  readonly folder: string;
  readonly keyBytes: number;
  /** Hex. */
  readonly identity: string;
  readonly checksum: Checksum;
}

interface Base {
  readonly generation: number;
  readonly records: BlockRecords;
  readonly epochMs: number;
  /** Frames below this number must follow. */
  readonly frames: number;
}

/** Reads what a folder holds: the newest snapshot that is whole, and the logs that follow it.
 * @throws KvferryError NAMESPACE_MISMATCH if the files are another namespace's. */
export async function recover(source: Source): Promise<Recovered> {
  const found = await listGenerations(source.folder);
  const generationMax = Math.max(0, ...found.logs, ...found.snapshots);
  const base = await findBase(source, found);
  if (base === undefined) {
    return {
      records: new BlockRecords(source.keyBytes),
      epochMs: undefined,
      damaged: false,
      frames: 0,
      cutBytes: 0,
      unusableFiles: found.logs.length + found.snapshots.length,
      log: undefined,
      nextFrame: 0,
      generationMax,
    };
  }
  const replayed = await replay(source, base, found.logs);
  const older = [...found.logs, ...found.snapshots].filter((each) => each < base.generation).length; // left behind by a crash
  const used = replayed.logs + (found.snapshots.includes(base.generation) ? 1 : 0);
  return {
    records: base.records,
    epochMs: base.epochMs,
    damaged: ((replayed.nextFrame - base.frames) | 0) < 0, // numbers are 32 bits and go round
    frames: replayed.frames,
    cutBytes: replayed.cutBytes,
    unusableFiles: found.logs.length + found.snapshots.length - older - used,
    log: replayed.end,
    nextFrame: replayed.nextFrame,
    generationMax,
  };
}

/** The newest whole snapshot, or log that begins with an empty index. */
async function findBase(source: Source, { logs, snapshots }: Generations): Promise<Base | undefined> {
  const candidates = [...new Set([...logs, ...snapshots])].sort((a, b) => b - a);
  for (const generation of candidates) {
    const base = snapshots.includes(generation) ? await readSnapshot(source, generation) : undefined;
    if (base !== undefined) return base;
    const head = logs.includes(generation) ? await readLogHead(source, generation) : undefined;
    if (head?.empty) {
      return { generation, records: new BlockRecords(source.keyBytes), epochMs: head.epochMs, frames: 0 };
    }
  }
  return undefined;
}

async function readSnapshot(source: Source, generation: number): Promise<Base | undefined> {
  const file = await open(snapshotPath(source.folder, generation), "r");
  try {
    const reader = await FrameReader.of(file, source.checksum);
    const head = headOf(await reader.next(), FrameKind.SNAPSHOT_HEAD, source, generation);
    if (head?.rowLimit === undefined || head.rowLimit > ROWS_MAX) return undefined;
    const records = new BlockRecords(source.keyBytes);
    for (let number = 1; ; number++) {
      const frame = await reader.next();
      if (frame === undefined || frame.generation !== generation || frame.number !== number) return undefined;
      if (frame.kind === FrameKind.SNAPSHOT_END) {
        if (records.rowLimit !== head.rowLimit) return undefined;
        const { frames } = jsonOf(frame) as SnapshotEnd;
        return { generation, records, epochMs: head.epochMs, frames };
      }
      if (!putRows(records, frame, head.rowLimit)) return undefined;
    }
  } finally {
    await file.close();
  }
}

function putRows(records: BlockRecords, { kind, argument, body }: Frame, rowLimit: number): boolean {
  const rows = body.length / records.recordWords;
  const fits = Number.isInteger(rows) && rows <= CHUNK_ROWS && argument + rows <= rowLimit;
  if (kind !== FrameKind.ROWS || argument !== records.rowLimit || argument % CHUNK_ROWS !== 0 || !fits) return false;
  records.reach(argument + rows);
  records.chunk(argument).set(body);
  return true;
}

async function readLogHead(source: Source, generation: number): Promise<FileHead | undefined> {
  const file = await open(logPath(source.folder, generation), "r");
  try {
    const reader = await FrameReader.of(file, source.checksum);
    return headOf(await reader.next(), FrameKind.LOG_HEAD, source, generation);
  } finally {
    await file.close();
  }
}

function headOf(
  frame: Frame | undefined,
  kind: FrameKind,
  { folder, identity, keyBytes }: Source,
  generation: number,
): FileHead | undefined {
  if (frame?.kind !== kind || frame.generation !== generation) return undefined;
  const head = jsonOf(frame) as FileHead;
  if (head.identity !== identity || head.keyBytes !== keyBytes) {
    throw new KvferryError("NAMESPACE_MISMATCH", `the prefix index in ${folder} is another namespace's`, {
      operation: "prefixIndex",
      context: { folder, found: head.identity, expected: identity },
    });
  }
  return head;
}

interface Replayed {
  logs: number;
  frames: number;
  cutBytes: number;
  nextFrame: number;
  end: LogEnd | undefined;
}

/** Applies the logs from the base's generation on, as long as each goes on where the one before it ended. */
async function replay(source: Source, base: Base, logs: readonly number[]): Promise<Replayed> {
  const done: Replayed = { logs: 0, frames: 0, cutBytes: 0, nextFrame: 0, end: undefined };
  for (let generation = base.generation; logs.includes(generation); generation++) {
    const file = await open(logPath(source.folder, generation), "r");
    try {
      const reader = await FrameReader.of(file, source.checksum);
      const first = await reader.next();
      const head = headOf(first, FrameKind.LOG_HEAD, source, generation);
      if (first === undefined || head === undefined) break;
      if (generation > base.generation && (first.number !== done.nextFrame || head.empty)) break;
      done.nextFrame = (first.number + 1) >>> 0;
      let bytes = reader.goodBytes;
      for (let frame = await reader.next(); isNext(frame, generation, done.nextFrame); frame = await reader.next()) {
        if (!applyChanges(base.records, frame.body)) break;
        done.nextFrame = (done.nextFrame + 1) >>> 0;
        done.frames++;
        bytes = reader.goodBytes;
      }
      done.logs++;
      done.cutBytes += (await file.stat()).size - bytes;
      done.end = { generation, bytes };
    } finally {
      await file.close();
    }
  }
  return done;
}

function isNext(frame: Frame | undefined, generation: number, number: number): frame is Frame {
  return frame?.kind === FrameKind.CHANGES && frame.generation === generation && frame.number === number;
}
