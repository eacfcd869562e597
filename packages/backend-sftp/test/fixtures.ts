import {
  type BlockBatch,
  createMemoryRegion,
  createNamespace,
  type KeyBatch,
  type Logger,
  type Namespace,
  packKeys,
  type Region,
} from "@kvferry/core";

export const KEY_BYTES = 36;

/** A namespace of a name; equal names, equal namespaces. */
export function namespaceOf(tenant: string): Namespace {
  return createNamespace({
    ...{ model: "m", weights: "00".repeat(32), dtype: "d", kvDtype: "d", layout: "l", tokensPerHash: 16 },
    ...{ blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["0"] }], parallel: null, engine: "e" },
    ...{ engineVersion: "1", formatVersion: 1, tenant },
  });
}

export function keyOf(id: number, group = 0): Uint8Array {
  const key = new Uint8Array(KEY_BYTES);
  const view = new DataView(key.buffer);
  view.setUint32(0, Math.imul(id + 1, 0x9e3779b1));
  view.setUint32(8, id);
  view.setUint32(KEY_BYTES - 4, group);
  return key;
}

export function keysOf(ids: readonly number[]): KeyBatch {
  return packKeys(
    ids.map((id) => keyOf(id)),
    KEY_BYTES,
  );
}

/** A region whose slot i holds bytes that follow from `ids[i]`. */
export function filled(ids: readonly number[], blockBytes: number): Region {
  const region = createMemoryRegion(ids.length, blockBytes);
  for (const [slot, id] of ids.entries()) {
    const words = new Uint32Array(region.bytes.buffer, slot * blockBytes, blockBytes >> 2);
    let state = Math.imul(id + 1, 0x9e3779b1) | 1;
    for (let i = 0; i < words.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      words[i] = state;
    }
  }
  return region;
}

export function batchOf(ids: readonly number[], region: Region): BlockBatch {
  return { keys: keysOf(ids), region, slots: Uint32Array.from(ids.keys()) };
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** A logger that keeps all that it is told, as text, errors with everything in them. */
export function recordingLogger(): { readonly logger: Logger; readonly lines: string[] } {
  const lines: string[] = [];
  const log = (facts: object, message: string): void => {
    lines.push(`${message} ${textOf(facts)}`);
  };
  return { logger: { debug: log, info: log, warn: log, error: log }, lines };
}

/** All that can be found in a value: as a serializer that goes into every corner would print it. */
export function textOf(value: unknown, seen: Set<unknown> = new Set()): string {
  if (typeof value !== "object" || value === null) return String(value);
  if (seen.has(value)) return "";
  seen.add(value);
  return Reflect.ownKeys(value)
    .map((name) => `${String(name)}=${textOf((value as Record<PropertyKey, unknown>)[name], seen)}`)
    .join(" ");
}

/** Polls, with a generous limit. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = performance.now() + 10_000; !(await condition()); ) {
    if (performance.now() > end) throw new Error("it has not come to that");
    await new Promise((done) => setTimeout(done, 2));
  }
}
