// The road with real vLLM engines: one fills the cache and is killed, a new one starts warm, another stands beside it.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { jsonLines, killGroup, start } from "../lib/processes.mjs";

/** Prompts that take some seconds on two cores; none ends with a chunk, as real ones seldom do. */
const PROMPTS = [4113, 5137, 6161];
const OUTPUT_TOKENS = 16;
const CHUNK_TOKENS = 64;
const HOST_BYTES = 1 << 30;
/** 50 MB of weights: enough that prefill costs what it should, and the file is made in seconds. */
const SHAPE = {
  vocab_size: 4096,
  hidden_size: 512,
  intermediate_size: 1408,
  num_hidden_layers: 8,
  num_attention_heads: 8,
  num_key_value_heads: 8,
  head_dim: 64,
  max_position_embeddings: 16384,
};
const GOALS = { cachedPercent: 100, speedUp: 5 };

/** @returns the report: rows, goals and whether they hold. */
export async function engineRoad({ root, socket, python, env, log }) {
  const options = {
    model: join(root, ".cache", "demo-model"),
    shape: SHAPE,
    socket,
    prompts: PROMPTS,
    outputTokens: OUTPUT_TOKENS,
    chunkTokens: CHUNK_TOKENS,
    hostBytes: HOST_BYTES,
    tokensMax: Math.max(...PROMPTS) + 64,
  };
  mkdirSync(join(root, ".cache"), { recursive: true });
  const engine = (name) => startEngine(name, { root, python, env, options, log });

  const first = await engine("engine 1");
  const cold = await first.run("cold");
  killGroup(first.process.child);
  await first.process.ended;
  log("ok  engine 1 killed (SIGKILL)");

  // Starting is imports for the most part; they start together and run one after the other.
  const [second, third] = await Promise.all([engine("engine 2"), engine("engine 3")]);
  const warm = await second.run("warm, after the restart");
  const beside = await third.run("warm, beside engine 2");
  for (const each of [second, third]) killGroup(each.process.child, "SIGTERM");
  return report(cold, warm, beside);
}

async function startEngine(name, { root, python, env, options, log }) {
  log(`... ${name} starts`);
  const source = join(root, "apps/vllm-plugin/src");
  const process_ = start(python, [join(root, "scripts/demo/engine.py"), JSON.stringify(options)], {
    stdin: "pipe",
    env: { ...env, PYTHONPATH: source, VLLM_NO_USAGE_STATS: "1" },
  });
  const lines = jsonLines(process_);
  const { ready } = await lines.next();
  log(`ok  ${name} is ready (${ready} s)`);
  return {
    process: process_,
    async run(how) {
      log(`... ${name}: ${options.prompts.length} prompts, ${how}`);
      process_.child.stdin.write("run\n");
      const results = [];
      for (let line = await lines.next(); !line.done; line = await lines.next()) {
        log(
          `    prompt ${line.prompt + 1}: first token after ${line.ttft.toFixed(2)} s, ${line.cached} of ${line.length} cached`,
        );
        results.push(line);
      }
      return results;
    },
  };
}

function report(cold, warm, beside) {
  const rows = cold.map((each, i) => {
    const chunks = Math.floor(each.length / CHUNK_TOKENS) * CHUNK_TOKENS;
    const percent = ({ cached }) => (100 * cached) / chunks;
    const isEqual = ({ tokens }) => JSON.stringify(tokens) === JSON.stringify(each.tokens);
    return {
      prompt: i + 1,
      promptTokens: each.length,
      coldSeconds: each.ttft,
      warmSeconds: warm[i].ttft,
      besideSeconds: beside[i].ttft,
      speedUpWarm: each.ttft / warm[i].ttft,
      speedUpBeside: each.ttft / beside[i].ttft,
      coldCachedTokens: each.cached,
      warmCachedTokens: warm[i].cached,
      besideCachedTokens: beside[i].cached,
      warmCachedPercent: percent(warm[i]),
      besideCachedPercent: percent(beside[i]),
      outputEqual: isEqual(warm[i]) && isEqual(beside[i]),
    };
  });
  const goals = [
    goal(
      `every full chunk cached`,
      rows,
      (row) => Math.min(row.warmCachedPercent, row.besideCachedPercent) >= GOALS.cachedPercent,
    ),
    goal("the same output", rows, (row) => row.outputEqual),
    goal(
      `first token at least ${GOALS.speedUp}× sooner`,
      rows,
      (row) => Math.min(row.speedUpWarm, row.speedUpBeside) >= GOALS.speedUp,
    ),
  ];
  return { road: "vllm", rows, goals, holds: goals.every(({ holds }) => holds), columns: COLUMNS };
}

const goal = (text, rows, test) => ({ goal: text, holds: rows.every(test) });
const seconds = (value) => `${value.toFixed(2)} s`;
const times = (value) => `${value.toFixed(1)}×`;

const COLUMNS = [
  ["prompt", (row) => `${row.prompt}`],
  ["tokens", (row) => `${row.promptTokens}`],
  ["cold", (row) => seconds(row.coldSeconds)],
  ["after restart", (row) => `${seconds(row.warmSeconds)} ${times(row.speedUpWarm)}`],
  ["second engine", (row) => `${seconds(row.besideSeconds)} ${times(row.speedUpBeside)}`],
  ["cached tokens", (row) => `${row.warmCachedTokens}, ${row.besideCachedTokens}`],
  ["of full chunks", (row) => `${row.warmCachedPercent.toFixed(0)} %, ${row.besideCachedPercent.toFixed(0)} %`],
  ["output", (row) => (row.outputEqual ? "equal" : "DIFFERS")],
];
