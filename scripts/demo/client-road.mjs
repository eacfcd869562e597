// The same road without vLLM: processes with the TypeScript client stand for the engines. Each stores or loads the blocks of some
// "prompts" and compares bytes. What an engine saves by it is not shown: nothing is computed here.
import { fileURLToPath } from "node:url";
import { jsonLines, killGroup, start } from "../lib/processes.mjs";

const BLOCK_BYTES = 1 << 20;
const PROMPT_BLOCKS = [64, 80, 96];
const ROLE = fileURLToPath(new URL("client-role.mjs", import.meta.url));

/** @returns the report: rows, goals and whether they hold. */
export async function clientRoad({ socket, log }) {
  const options = { socket, blockBytes: BLOCK_BYTES, prompts: PROMPT_BLOCKS };
  const first = await client("client 1", options, log);
  const cold = await first.run("store", "stores");
  killGroup(first.process.child);
  await first.process.ended;
  log("ok  client 1 killed (SIGKILL)");
  const [second, third] = await Promise.all([client("client 2", options, log), client("client 3", options, log)]);
  const warm = await second.run("load", "loads, after the restart");
  const beside = await third.run("load", "loads, beside client 2");
  for (const each of [second, third]) killGroup(each.process.child, "SIGTERM");

  const rows = cold.map((each, i) => ({
    prompt: i + 1,
    blocks: PROMPT_BLOCKS[i],
    storeSeconds: each.seconds,
    warmSeconds: warm[i].seconds,
    besideSeconds: beside[i].seconds,
    warmHitPercent: (100 * warm[i].hits) / PROMPT_BLOCKS[i],
    besideHitPercent: (100 * beside[i].hits) / PROMPT_BLOCKS[i],
    bytesEqual: warm[i].equal && beside[i].equal,
  }));
  const goals = [
    {
      goal: "every block found",
      holds: rows.every((row) => Math.min(row.warmHitPercent, row.besideHitPercent) >= 100),
    },
    { goal: "the same bytes", holds: rows.every((row) => row.bytesEqual) },
  ];
  return { road: "client", rows, goals, holds: goals.every(({ holds }) => holds), columns: COLUMNS };
}

async function client(name, options, log) {
  const process_ = start(process.execPath, [ROLE, JSON.stringify(options)], { stdin: "pipe" });
  const lines = jsonLines(process_);
  await lines.next();
  log(`ok  ${name} is connected`);
  return {
    process: process_,
    async run(command, how) {
      log(`... ${name} ${how}`);
      process_.child.stdin.write(`${command}\n`);
      const results = [];
      for (let line = await lines.next(); !line.done; line = await lines.next()) results.push(line);
      return results;
    },
  };
}

const milliseconds = (value) => `${(value * 1000).toFixed(0)} ms`;

const COLUMNS = [
  ["prompt", (row) => `${row.prompt}`],
  ["blocks of 1 MiB", (row) => `${row.blocks}`],
  ["stored in", (row) => milliseconds(row.storeSeconds)],
  ["loaded after restart", (row) => milliseconds(row.warmSeconds)],
  ["by a second client", (row) => milliseconds(row.besideSeconds)],
  ["found", (row) => `${row.warmHitPercent.toFixed(0)} %, ${row.besideHitPercent.toFixed(0)} %`],
  ["bytes", (row) => (row.bytesEqual ? "equal" : "DIFFER")],
];
