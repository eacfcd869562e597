import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import type { AuthorContext, BlockBatch, OffloadBackend } from "../backend.js";
import { mergeResult } from "../batches.js";
import { encodeFooter, FOOTER_BYTES, paddedBytes, storedBlockBytes } from "../block-format.js";
import { verifyBlock } from "../block-verdict.js";
import { type AuthorOptions, abortCode } from "../call.js";
import { type Checksum, crc32c } from "../crc32c.js";
import { KvferryError } from "../errors.js";
import { type KeyBatch, keyAt, selectKeys } from "../keys.js";
import { defineManifest, type Manifest } from "../manifest.js";
import { type BatchResult, Outcome, setOutcome, uniformResult } from "../outcomes.js";
import { slotBytes } from "../region.js";
import { Layer } from "./layer.js";
import { StagingPool } from "./staging-pool.js";

export interface IntegrityConfig {
  /** Memory for blocks on their way, at most (but one block always fits); default 64 MiB. */
  readonly stagingBytesMax?: number | undefined;
  /** CRC-32C; default: the one in plain JavaScript. A native one goes here. */
  readonly checksum?: Checksum | undefined;
  /** Who writes, for people who look into a file; default: host, pid, start, random. */
  readonly writer?: string | undefined;
}

const STAGING_BYTES_MAX = 64 * 1024 * 1024;
/** A batch takes at most this share of the staging rows at once, so that one does not shut out the others. */
const STAGING_SHARE = 4;
const HOST_NAME_CHARACTERS_MAX = 24;

/**
 * Makes a backend that trusts its storage into one that verifies it: each block is stored with the padding and the footer of
 * docs/block-format.md (the inner backend's blocks are that much longer), and a loaded block reaches the caller's slot only after its
 * checksum, key and namespace have been found right. A block that is CORRUPT is removed from the inner backend where that
 * can remove, so that it can be stored again; a good block that another writer puts there in that moment may go with it.
 *
 * Abandonable if the inner backend is: an aborted call copies nothing between slots and staging memory any more.
 */
export class IntegrityLayer extends Layer {
  readonly #checksum: Checksum;
  readonly #writer: string;
  readonly #stagingBytesMax: number;
  #staging: StagingPool | undefined;

  /** @throws KvferryError CONFIG_INVALID if the backend verifies already, or takes no blocks long enough for a footer. */
  constructor(inner: OffloadBackend, config: IntegrityConfig = {}) {
    super(inner, integrityManifest(inner.manifest));
    this.#checksum = config.checksum ?? crc32c;
    this.#writer = config.writer ?? writerName();
    this.#stagingBytesMax = config.stagingBytesMax ?? STAGING_BYTES_MAX;
    if (!Number.isSafeInteger(this.#stagingBytesMax) || this.#stagingBytesMax < 1) {
      throw invalid(`stagingBytesMax must be a positive whole number, got ${this.#stagingBytesMax}`, "stagingBytesMax");
    }
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const rowBytes = storedBlockBytes(context.blockBytes);
    this.#staging = new StagingPool(Math.max(1, Math.floor(this.#stagingBytesMax / rowBytes)), rowBytes);
    await super._open({ ...context, blockBytes: rowBytes });
  }

  protected override _store(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#inParts(batch, options, async (positions, rows) => {
      for (const [i, position] of positions.entries()) this.#wrap(batch, position, rows[i] as number);
      return this.inner.store(this.#staged(batch.keys, positions, rows), options);
    });
  }

  protected override _load(batch: BlockBatch, options: AuthorOptions): Promise<BatchResult> {
    return this.#inParts(batch, options, async (positions, rows) => {
      const result = await this.inner.load(this.#staged(batch.keys, positions, rows), options);
      const corrupt: number[] = [];
      for (const [i, position] of positions.entries()) {
        if (result.outcomes[i] !== Outcome.LOADED) continue;
        const outcome = this.#unwrap(batch, position, rows[i] as number, result, i, options.signal);
        if (outcome === Outcome.CORRUPT) corrupt.push(position);
      }
      if (corrupt.length > 0) await this.#discard(selectKeys(batch.keys, corrupt));
      return result;
    });
  }

  protected override async _close(): Promise<void> {
    await super._close();
    this.#staging = undefined;
  }

  get #pool(): StagingPool {
    return this.#staging as StagingPool; // set by _open, before any call
  }

  /** Goes through a batch in parts that fit into the staging memory. */
  async #inParts(
    { keys: { count } }: BlockBatch,
    { signal }: AuthorOptions,
    move: (positions: number[], rows: Uint32Array) => Promise<BatchResult>,
  ): Promise<BatchResult> {
    const result = uniformResult(count, Outcome.FAILED);
    const share = Math.ceil(this.#pool.region.rows / STAGING_SHARE);
    for (let at = 0; at < count; ) {
      const rows = await this.#pool.take(Math.min(share, count - at), signal);
      if (rows === undefined) {
        const code = abortCode(signal as AbortSignal); // rows are refused for no other reason
        for (; at < count; at++) setOutcome(result, at, Outcome.FAILED, code);
        break;
      }
      const positions = Array.from(rows, (_, i) => at + i);
      try {
        mergeResult(result, positions, await move(positions, rows));
      } finally {
        this.#pool.give(rows);
      }
      at += rows.length;
    }
    return result;
  }

  #staged(keys: KeyBatch, positions: number[], rows: Uint32Array): BlockBatch {
    return { keys: selectKeys(keys, positions), region: this.#pool.region, slots: rows };
  }

  #wrap({ keys, region, slots }: BlockBatch, position: number, row: number): void {
    const { blockBytes, clock, namespace } = this.context;
    const stored = slotBytes(this.#pool.region, row);
    const payload = stored.subarray(0, blockBytes);
    payload.set(slotBytes(region, slots[position] as number, blockBytes));
    stored.fill(0, blockBytes, paddedBytes(blockBytes));
    const fields = {
      payloadBytes: blockBytes,
      payloadChecksum: this.#checksum(payload), // of the copy: the caller's memory may be changing
      storedAtMs: clock.nowMs(),
      namespaceDigest: namespace.digest,
      key: keyAt(keys, position),
      writer: this.#writer,
    };
    encodeFooter(stored.subarray(paddedBytes(blockBytes)), fields, this.#checksum);
  }

  /** Judges a staged block and copies it to its slot if it is right. */
  #unwrap(
    { keys, region, slots }: BlockBatch,
    position: number,
    row: number,
    result: BatchResult,
    index: number,
    signal: AbortSignal | undefined,
  ): Outcome {
    if (signal?.aborted) {
      setOutcome(result, index, Outcome.FAILED, abortCode(signal));
      return Outcome.FAILED;
    }
    const { blockBytes, namespace } = this.context;
    const stored = slotBytes(this.#pool.region, row);
    const expected = { blockBytes, key: keyAt(keys, position), namespaceDigest: namespace.digest };
    const { outcome, code } = verifyBlock(stored, expected, this.#checksum);
    setOutcome(result, index, outcome, code);
    if (outcome === Outcome.LOADED) {
      region.bytes.set(stored.subarray(0, blockBytes), (slots[position] as number) * region.rowBytes);
    }
    return outcome;
  }

  async #discard(keys: KeyBatch): Promise<void> {
    const { logger } = this.context;
    logger.warn({ backend: this.manifest.name, blocks: keys.count }, "blocks are corrupt");
    if (!this.inner.manifest.capabilities.remove) return;
    try {
      await this.inner.remove(keys);
      this.announceRemoved(keys, "corrupt");
    } catch (err) {
      logger.warn({ err, backend: this.manifest.name }, "corrupt blocks could not be removed"); // they stay CORRUPT
    }
  }
}

function integrityManifest({ name, capabilities, limits }: Manifest): Manifest {
  if (capabilities.verifiesPayload) {
    throw invalid(`the backend ${name} verifies its blocks already`, "backend");
  }
  const blockBytesMax = Math.floor(limits.blockBytesMax / FOOTER_BYTES) * FOOTER_BYTES - FOOTER_BYTES;
  const paddedMin = paddedBytes(Math.max(1, limits.blockBytesMin - FOOTER_BYTES));
  const blockBytesMin = paddedMin === FOOTER_BYTES ? 1 : paddedMin - FOOTER_BYTES + 1;
  if (blockBytesMax < blockBytesMin) {
    throw invalid(`blocks of the backend ${name} are too short for a footer of ${FOOTER_BYTES} bytes`, "backend");
  }
  return defineManifest({
    name,
    capabilities: { ...capabilities, zeroCopy: false, verifiesPayload: true },
    limits: { ...limits, blockBytesMin, blockBytesMax },
  });
}

function writerName(): string {
  const host = hostname().slice(0, HOST_NAME_CHARACTERS_MAX);
  return `${host}-${process.pid}-${Math.round(performance.timeOrigin)}-${randomBytes(4).toString("hex")}`;
}

function invalid(reason: string, field: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `integrity: ${reason}`, { operation: "config", context: { field } });
}
