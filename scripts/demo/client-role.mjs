// One client of client-road.mjs: `store` or `load` on stdin, JSON lines on stdout.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { LookupState, Outcome } from "@kvferry/core";
import { createRegion } from "@kvferry/native";
import { KvferryClient } from "@kvferry/protocol";

const options = JSON.parse(process.argv[2] ?? "{}");
const { socket, blockBytes, prompts } = options;
const KEY_BYTES = 36;
const namespace = {
  model: "kvferry-demo",
  weights: createHash("sha256").update("kvferry demo").digest("hex"),
  dtype: "float32",
  kvDtype: "float32",
  layout: "demo",
  tokensPerHash: 64,
  blocksPerChunk: 1,
  groups: [{ tokensPerBlock: 64, layers: ["layer"] }],
  parallel: null,
  engine: "demo",
  engineVersion: "1",
  formatVersion: 1,
  tenant: "",
};

const region = createRegion({ rows: Math.max(...prompts), rowBytes: blockBytes });
const client = await KvferryClient.connect({ socket, namespace, keyBytes: KEY_BYTES, region });
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
say({ ready: true });

for await (const line of createInterface({ input: process.stdin })) {
  for (let prompt = 0; prompt < prompts.length; prompt++) {
    say(line === "store" ? await store(prompt) : await load(prompt));
  }
  say({ done: true });
}

async function store(prompt) {
  const count = prompts[prompt];
  for (let i = 0; i < count; i++) fill(prompt, i);
  const start = performance.now();
  const { outcomes } = await client.store(keys(prompt), slots(count));
  const seconds = (performance.now() - start) / 1000;
  const stored = outcomes.filter((each) => each === Outcome.STORED || each === Outcome.PRESENT).length;
  if (stored !== count) throw new Error(`${stored} of ${count} blocks were stored`);
  return { prompt, seconds };
}

async function load(prompt) {
  const count = prompts[prompt];
  region.bytes.fill(0);
  const start = performance.now();
  const states = await client.lookup(keys(prompt));
  const hits = states.filter((each) => each === LookupState.HIT).length;
  const { outcomes } = await client.load(keys(prompt), slots(count));
  const seconds = (performance.now() - start) / 1000;
  let equal = outcomes.every((each) => each === Outcome.LOADED);
  for (let i = 0; i < count; i++) equal = equal && isFilled(prompt, i);
  return { prompt, seconds, hits, equal };
}

function keys(prompt) {
  const bytes = new Uint8Array(prompts[prompt] * KEY_BYTES);
  for (let i = 0; i < prompts[prompt]; i++) {
    bytes.set(createHash("sha256").update(`${prompt} ${i}`).digest(), i * KEY_BYTES);
  }
  return { bytes, stride: KEY_BYTES, count: prompts[prompt] };
}

function slots(count) {
  return Uint32Array.from({ length: count }, (_, i) => i);
}

function block(i) {
  return new Uint32Array(region.bytes.buffer, region.bytes.byteOffset + i * blockBytes, blockBytes / 4);
}

function fill(prompt, i) {
  const words = block(i);
  for (let at = 0; at < words.length; at++) words[at] = value(prompt, i, at);
}

function isFilled(prompt, i) {
  const words = block(i);
  for (let at = 0; at < words.length; at++) if (words[at] !== value(prompt, i, at)) return false;
  return true;
}

function value(prompt, i, at) {
  return (Math.imul(prompt * 1000 + i + 1, 2654435761) ^ Math.imul(at, 40503)) >>> 0;
}
