// A client that asks as an engine does: look a request up, load what is there, check every byte, store the rest.
import { createHash } from "node:crypto";
import { LookupState, Outcome, packedKeys } from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { KvferryClient } from "@kvferry/protocol";

export const KEY_BYTES = 36;
const BATCH_BLOCKS = 64;
const PATTERN_BYTES = 4096;

const NAMESPACE = {
  ...{ model: "soak", weights: "00".repeat(32), dtype: "bfloat16", kvDtype: "auto", layout: "soak" },
  ...{ tokensPerHash: 64, blocksPerChunk: 1, groups: [{ tokensPerBlock: 64, layers: ["layer"] }], parallel: null },
  ...{ engine: "soak", engineVersion: "1", formatVersion: 1, tenant: "" },
};

export function keysOf(ids) {
  const bytes = new Uint8Array(ids.length * KEY_BYTES);
  ids.forEach((id, i) => {
    bytes.set(createHash("sha256").update(`block ${id}`).digest(), i * KEY_BYTES);
  });
  return packedKeys(bytes, KEY_BYTES);
}

function partOf(keys, from, to) {
  return packedKeys(keys.bytes.subarray(from * keys.stride, to * keys.stride), keys.stride);
}

export class SoakEngine {
  #client;
  #region;
  #blockBytes;
  counts = {
    requests: 0,
    blocks: 0,
    found: 0,
    wrong: 0,
    corrupt: 0,
    loadsNotThere: 0,
    failed: 0,
    stored: 0,
    dropped: 0,
  };

  static async connect(socket, blockBytes) {
    const engine = new SoakEngine();
    engine.#blockBytes = blockBytes;
    engine.#region = createRegion({ rows: BATCH_BLOCKS, rowBytes: blockBytes });
    const region = engine.#region;
    engine.#client = await KvferryClient.connect({ socket, namespace: NAMESPACE, keyBytes: KEY_BYTES, region });
    return engine;
  }

  async close() {
    await this.#client.close();
    this.#region.close();
  }

  async request(ids) {
    const keys = keysOf(ids);
    const found = await this.#loadFirst(keys, await this.#hits(keys));
    for (let at = found; at < keys.count; at += BATCH_BLOCKS) await this.#store(keys, at);
    this.counts.requests++;
    this.counts.blocks += keys.count;
    this.counts.found += found;
  }

  /** How many blocks from the first on are there. */
  look(ids) {
    return this.#hits(keysOf(ids));
  }

  async #hits(keys) {
    const states = await this.#client.lookup(keys);
    const miss = states.findIndex((state) => state !== LookupState.HIT);
    return miss < 0 ? keys.count : miss;
  }

  /** How many blocks from the first on were loaded. */
  async #loadFirst(keys, count) {
    for (let at = 0; at < count; at += BATCH_BLOCKS) {
      const part = partOf(keys, at, Math.min(count, at + BATCH_BLOCKS));
      const { outcomes } = await this.#client.load(part, slots(part.count));
      for (const [i, outcome] of outcomes.entries()) {
        if (outcome === Outcome.LOADED && this.#holds(part, i)) continue;
        if (outcome === Outcome.LOADED) this.counts.wrong++;
        else if (outcome === Outcome.CORRUPT) this.counts.corrupt++;
        else if (outcome === Outcome.MISS) this.counts.loadsNotThere++;
        else this.counts.failed++;
        return at + i;
      }
    }
    return count;
  }

  async #store(keys, at) {
    const part = partOf(keys, at, Math.min(keys.count, at + BATCH_BLOCKS));
    for (let i = 0; i < part.count; i++) this.#fill(part, i);
    const { outcomes } = await this.#client.store(part, slots(part.count));
    for (const outcome of outcomes) {
      if (outcome === Outcome.STORED || outcome === Outcome.PRESENT) this.counts.stored++;
      else if (outcome === Outcome.DROPPED) this.counts.dropped++;
      else this.counts.failed++;
    }
  }

  /** Bytes that follow from the key, different in every page. */
  #pattern(keys, index) {
    const key = keys.bytes.subarray(index * keys.stride, (index + 1) * keys.stride);
    const pattern = Buffer.alloc(this.#blockBytes, key);
    for (let page = 0; page < this.#blockBytes; page += PATTERN_BYTES) pattern.writeUInt32LE(page, page);
    return pattern;
  }

  #fill(keys, index) {
    this.#region.bytes.set(this.#pattern(keys, index), index * this.#blockBytes);
  }

  #holds(keys, index) {
    const slot = this.#region.bytes.subarray(index * this.#blockBytes, (index + 1) * this.#blockBytes);
    return this.#pattern(keys, index).equals(slot);
  }
}

function slots(count) {
  return Uint32Array.from({ length: count }, (_, i) => i);
}
