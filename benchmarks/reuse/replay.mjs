// Replays a trace against the server's own prefix index and policies.
import { NO_ROW, PrefixIndex, packedKeys } from "@kvferry/core";

/** A hash of 4 bytes and the group. */
const KEY_BYTES = 8;
const TIER = 1;
const BLOCK_BYTES = 1;

/**
 * Hit ratio: blocks found in one unbroken run from the start of the request, over all blocks requested. All blocks of a request are stored after it; then
 * the policy's victims go until the capacity holds.
 *
 * The time is that of the policy's calls and of the removals from the index.
 */
export function replay({ requests, distinct, references }, capacityBlocks, makePolicy, { seed = 1 } = {}) {
  const index = new PrefixIndex({ keyBytes: KEY_BYTES, expectedBlocks: Math.min(capacityBlocks, distinct) });
  const blockOf = [];
  const policy = makePolicy({ table: reproducible(index, blockOf), capacityBlocks, seed });
  const longest = requests.reduce((most, { blocks }) => Math.max(most, blocks.length), 0);
  const rows = new Int32Array(longest);
  const before = new Int32Array(longest);
  const use = { nowMs: 0, position: 0, requestBlocks: 0, foundBlocks: 0 };
  let found = 0;
  let policyMs = 0;
  for (const { nowMs, blocks } of requests) {
    const keys = keysOf(blocks);
    use.nowMs = nowMs;
    use.requestBlocks = blocks.length;
    use.foundBlocks = index.longestPrefix(keys);
    found += use.foundBlocks;
    index.findMany(keys, before);
    index.insert(keys, { tier: TIER, bytes: BLOCK_BYTES, nowMs }, rows);
    index.touch(before.subarray(0, blocks.length), nowMs);
    for (let i = 0; i < blocks.length; i++) blockOf[rows[i]] = blocks[i];
    const begun = performance.now();
    for (let i = blocks.length - 1; i >= 0; i--) {
      use.position = i;
      if (before[i] === NO_ROW) policy.inserted(rows[i], use);
      else policy.used(rows[i], use);
    }
    evict(index, policy, capacityBlocks, nowMs);
    policyMs += performance.now() - begun;
  }
  return {
    hitRatio: references === 0 ? 0 : found / references,
    microsecondsPerBlock: references === 0 ? 0 : (policyMs * 1e3) / references,
    policyBytesPerBlock: index.size === 0 ? 0 : policy.memoryBytes / index.size,
  };
}

/** The index, with hashes of the blocks' numbers: its own differ from process to process, and so would what is sampled by them. */
function reproducible(index, blockOf) {
  return {
    get rowLimit() {
      return index.rowLimit;
    },
    parent: (row) => index.parent(row),
    children: (row) => index.children(row),
    lastUseMs: (row) => index.lastUseMs(row),
    uses: (row) => index.uses(row),
    hash: (row) => Math.imul(blockOf[row] + 1, 0x9e3779b1) >>> 0,
  };
}

function evict(index, policy, capacityBlocks, nowMs) {
  while (index.size > capacityBlocks) {
    const row = policy.victim(nowMs);
    if (row === NO_ROW) throw new Error(`${policy.name} names no victim among ${index.size} blocks`);
    policy.removed(row);
    index.delete(row);
  }
}

function keysOf(blocks) {
  const bytes = new Uint8Array(blocks.length * KEY_BYTES);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < blocks.length; i++) view.setUint32(i * KEY_BYTES, blocks[i] + 1, true);
  return packedKeys(bytes, KEY_BYTES);
}
