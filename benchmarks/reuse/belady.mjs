// The bound: lets go of the block whose next use is farthest, which only who knows the future can do.

const NEVER = Number.POSITIVE_INFINITY;

/** The hit ratio of `replay`'s measure with full knowledge of the trace. Of blocks that are used next by the same request the last of the chain goes first. */
export function belady({ requests, distinct, references }, capacityBlocks) {
  const nextUses = nextUsesOf(requests, distinct);
  const nextUse = new Float64Array(distinct).fill(-1);
  const heap = new FarthestFirst();
  let [size, found] = [0, 0];
  for (const [now, { blocks }] of requests.entries()) {
    let run = 0;
    while (run < blocks.length && nextUse[blocks[run]] >= 0) run++;
    found += run;
    for (const [i, block] of blocks.entries()) {
      if (nextUse[block] < 0) size++;
      nextUse[block] = nextUses[now][i];
      heap.push(nextUse[block], i, block);
    }
    while (size > capacityBlocks) {
      const { next, block } = heap.pop();
      // what was used since is in the heap once more
      if (nextUse[block] !== next) continue;
      nextUse[block] = -1;
      size--;
    }
  }
  return { hitRatio: references === 0 ? 0 : found / references };
}

/** By request and position: the request that uses the block next. */
function nextUsesOf(requests, distinct) {
  const next = new Float64Array(distinct).fill(NEVER);
  const uses = new Array(requests.length);
  for (let now = requests.length - 1; now >= 0; now--) {
    const { blocks } = requests[now];
    uses[now] = Float64Array.from(blocks, (block) => next[block]);
    for (const block of blocks) next[block] = now;
  }
  return uses;
}

/** A binary heap: the farthest next use first, then the greatest position. */
class FarthestFirst {
  #entries = [];

  push(next, position, block) {
    const entries = this.#entries;
    const entry = { next, position, block };
    let at = entries.length;
    entries.push(entry);
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (!isBefore(entry, entries[above])) break;
      entries[at] = entries[above];
      at = above;
    }
    entries[at] = entry;
  }

  pop() {
    const entries = this.#entries;
    const top = entries[0];
    const last = entries.pop();
    if (entries.length === 0) return top;
    let at = 0;
    for (let child = 1; child < entries.length; child = 2 * at + 1) {
      if (child + 1 < entries.length && isBefore(entries[child + 1], entries[child])) child++;
      if (!isBefore(entries[child], last)) break;
      entries[at] = entries[child];
      at = child;
    }
    entries[at] = last;
    return top;
  }
}

function isBefore(a, b) {
  return a.next > b.next || (a.next === b.next && a.position > b.position);
}
