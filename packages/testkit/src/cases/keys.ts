import assert from "node:assert/strict";
import { GROUP_BYTES, KEY_BYTES_MIN, keyHex, Outcome, packKeys } from "@kvferry/core";
import { assertOutcomes, type Bench } from "../bench.js";
import type { ConformanceCase } from "../case.js";

/** Keys that a careless encoding would mix up, or turn into something else. */
function hardKeys(bench: Bench): Uint8Array[] {
  const { keyBytes } = bench;
  const keys: Uint8Array[] = [new Uint8Array(keyBytes), new Uint8Array(keyBytes).fill(0xff)];
  // path separators, dots, line ends, quotes, wildcards, and bytes that are no UTF-8
  for (const byte of [0x2f, 0x2e, 0x5c, 0x0a, 0x20, 0x22, 0x2a, 0x25, 0x80, 0xc3]) {
    const key = new Uint8Array(keyBytes).fill(byte);
    key.fill(0, keyBytes - GROUP_BYTES);
    keys.push(key);
  }
  const base = bench.key(7);
  for (const [at, mask] of [
    [0, 0x01],
    [0, 0x80],
    [keyBytes - GROUP_BYTES - 1, 0x01],
    [keyBytes - GROUP_BYTES - 1, 0x80],
  ] as const) {
    const key = base.slice();
    key[at] = (key[at] as number) ^ mask;
    keys.push(key);
  }
  const text = base.slice(); // 'A' and 'a': a file system that ignores case must not make them one
  text[0] = 0x41;
  const lower = base.slice();
  lower[0] = 0x61;
  keys.push(base, text, lower);
  const seen = new Set<string>();
  return keys.filter((key) => !seen.has(keyHex(key)) && seen.add(keyHex(key)));
}

async function mustKeepApart(bench: Bench, keys: readonly Uint8Array[], why: string): Promise<void> {
  const ids = keys.map((_, i) => i);
  const packed = packKeys(keys);
  const stored = await bench.storeBatch({ ...bench.filled(ids), keys: packed });
  assertOutcomes(
    stored,
    ids.map(() => Outcome.STORED),
    `${why}: store`,
  );
  const batch = { ...bench.batch(ids, bench.region(ids.length)), keys: packed };
  assertOutcomes(
    await bench.loadBatch(batch),
    ids.map(() => Outcome.LOADED),
    `${why}: load`,
  );
  bench.assertContents(batch.region, ids, why);
  if (!bench.backend.manifest.capabilities.scan) return;
  const listed = (await bench.scan()).map(({ key }) => keyHex(key)).sort();
  assert.deepEqual(listed, keys.map(keyHex).sort(), `${why}: scan must list every key as it was given`);
}

/** Keys are bytes: all of them count. */
export const keyCases: readonly ConformanceCase[] = [
  {
    name: "keys of any bytes are kept apart",
    async run(kit) {
      const bench = await kit.setup();
      await mustKeepApart(bench, hardKeys(bench), "hard keys");
    },
  },
  {
    name: "the same hash in different groups is different blocks",
    async run(kit) {
      const bench = await kit.setup();
      const groups = [0, 1, 255, 256, 65_536, 0x7fffffff, 0x80000000, 0xffffffff];
      await mustKeepApart(
        bench,
        groups.map((group) => bench.key(1, group)),
        "groups",
      );
    },
  },
  {
    name: "the shortest and the longest keys work",
    async run(kit) {
      const { keyBytesMax } = (await kit.create()).backend.manifest.limits;
      for (const keyBytes of new Set([KEY_BYTES_MIN, Math.min(20, keyBytesMax), keyBytesMax])) {
        const bench = await kit.setup({ keyBytes });
        const keys = [1, 2, 250].map((id) => bench.key(id, 3));
        await mustKeepApart(bench, keys, `keys of ${keyBytes} bytes`);
      }
    },
  },
];
