// Alternating rounds of several ways to store and load the same blocks.
import { countOutcome, createMemoryRegion, createNamespace, Outcome, packKeys } from "@kvferry/core";

const KEY_BYTES = 36;

/** What all contenders move: the same region, `blocks` blocks of pseudo-random bytes. */
export function makeWorkload(options) {
  const { blockBytes, blocks } = options;
  const region = createMemoryRegion(blocks, blockBytes);
  const words = new Uint32Array(region.bytes.buffer, 0, (blocks * blockBytes) >> 2);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = state;
  }
  return { ...options, memory: region, bytes: blocks * blockBytes };
}

/** One of ours as a contender. */
export async function openContender(backend, { blockBytes, blocks, memory }) {
  await backend.open({ namespace: namespace(), keyBytes: KEY_BYTES, blockBytes });
  const slots = Uint32Array.from({ length: blocks }, (_, i) => i);
  let round = 0;
  let keys;
  const expect = (result, outcome) => {
    if (countOutcome(result, outcome) !== blocks) throw new Error(`not all blocks: ${result.outcomes} ${result.codes}`);
  };
  return {
    async store() {
      keys = packKeys(Array.from({ length: blocks }, (_, i) => keyOf(round, i)));
      round++;
      expect(await backend.store({ keys, region: memory, slots }), Outcome.STORED);
    },
    load: async () => expect(await backend.load({ keys, region: memory, slots }), Outcome.LOADED),
    clear: async () => expect(await backend.remove(keys), Outcome.REMOVED),
    close: () => backend.close(),
  };
}

/** Does a step for each number below `count`, so many at once. */
export async function each(count, atOnce, step) {
  let next = 0;
  const work = async () => {
    while (next < count) await step(next++);
  };
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, work));
}

/**
 * All contenders in turn, the first one another one each round; one round before those that are reported.
 *
 * @param contenders name → what makes `{store, load, clear, close}` of a workload; one of them is `kvferry`
 * @param unitBytes of the speeds a second
 */
export async function contest(contenders, workload, { rounds, unitBytes }) {
  const names = Object.keys(contenders);
  const running = Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await contenders[name](workload)])),
  );
  const raw = Object.fromEntries(names.map((name) => [name, { store: [], load: [], cpuSeconds: [] }]));
  for (let round = -1; round < rounds; round++) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round + names.length) % names.length];
      const before = process.cpuUsage();
      const store = await timed(() => running[name].store());
      const load = await timed(() => running[name].load());
      const { user, system } = process.cpuUsage(before);
      await running[name].clear();
      if (round < 0) continue;
      raw[name].store.push(workload.bytes / store / unitBytes);
      raw[name].load.push(workload.bytes / load / unitBytes);
      raw[name].cpuSeconds.push((user + system) / 1e6);
    }
  }
  for (const one of Object.values(running)) await one.close();
  const medians = Object.fromEntries(
    names.map((name) => [name, { store: median(raw[name].store), load: median(raw[name].load) }]),
  );
  const kvferryOver = Object.fromEntries(
    names
      .filter((name) => name !== "kvferry")
      .map((name) => [name, { store: ratio(raw, name, "store"), load: ratio(raw, name, "load") }]),
  );
  return { medians, kvferryOver, raw };
}

/** Median over the rounds: what ran in one round had the same neighbours. */
function ratio(raw, name, phase) {
  return median(raw.kvferry[phase].map((ours, i) => ours / raw[name][phase][i]));
}

async function timed(action) {
  const begin = performance.now();
  await action();
  return (performance.now() - begin) / 1000;
}

export function median(numbers) {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function keyOf(round, i) {
  const key = new Uint8Array(KEY_BYTES);
  const view = new DataView(key.buffer);
  view.setUint32(0, Math.imul(i + 1, 0x9e3779b1));
  view.setUint32(4, i);
  view.setUint32(8, round);
  return key;
}

function namespace() {
  return createNamespace({
    ...{ model: "benchmark", weights: "00".repeat(32), dtype: "bfloat16", kvDtype: "auto", layout: "benchmark" },
    ...{ tokensPerHash: 16, blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["0"] }], parallel: null },
    ...{ engine: "benchmark", engineVersion: "1", formatVersion: 1, tenant: "" },
  });
}
