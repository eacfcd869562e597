// First in, first out, whoever has children: the simplest policy there is, and how one of your own looks.

const NO_ROW = -1;

/** A policy in the form of POLICIES: lets go of what was inserted longest ago. Its queue is only as bounded as the trace. */
export function fifo() {
  const queue = [];
  let head = 0;
  /** Where in the queue a row stands that is there. */
  const placeOf = new Map();
  return {
    name: "fifo",
    memoryBytes: 0,
    inserted(row) {
      placeOf.set(row, queue.length);
      queue.push(row);
    },
    used() {},
    removed: (row) => placeOf.delete(row),
    victim() {
      while (head < queue.length && placeOf.get(queue[head]) !== head) head++;
      return queue[head] ?? NO_ROW;
    },
    worth: (row) => placeOf.get(row) ?? -1,
  };
}
