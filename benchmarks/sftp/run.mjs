#!/usr/bin/env node
// `npm run bench:sftp`: SftpBackend beside loops over ssh2's own client, against the same real sshd, in alternating rounds.
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { cleanUpAtExit } from "../../scripts/lib/processes.mjs";
import { startSshd } from "../../scripts/lib/sshd.mjs";
import { contest, makeWorkload } from "../lib/contest.mjs";
import { machine } from "../lib/machine.mjs";
import { CONTENDERS } from "./contenders.mjs";

const repository = resolve(fileURLToPath(import.meta.url), "../../..");
const results = join(repository, "benchmarks/results");
const KIBIBYTE = 1024;

const HELP = `Usage: npm run bench:sftp -- [options]

  --rounds N        rounds that are reported (default 11; one more before them is not)
  --mebibytes N     bytes of a phase (default 128)
  --blocks LIST     KiB a block (default 256,1024,4096)
  --help            this text

Contenders:
  kvferry    SftpBackend with its defaults: temporary names and renames, every load verified
  naive      ssh2's writeFile and createReadStream, a block after the other over one connection, nothing verified
  naive-32   the same with 32 blocks at once

Writes benchmarks/results/sftp.json. Only ratios within one run mean anything; client and server share the machine's cores.
`;
const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "11" },
    mebibytes: { type: "string", default: "128" },
    blocks: { type: "string", default: "256,1024,4096" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

const [rounds, mebibytes] = [flags.rounds, flags.mebibytes].map(Number);
const blockSizes = flags.blocks.split(",").map((size) => Number(size) * KIBIBYTE);
cleanUpAtExit(() => {});

// in memory: what is compared is the road, not the drive at its end
const server = await startSshd({ parent: existsSync("/dev/shm") ? "/dev/shm" : tmpdir() });
const measured = [];
try {
  for (const blockBytes of blockSizes) {
    const blocks = Math.max(1, Math.floor((mebibytes * KIBIBYTE * KIBIBYTE) / blockBytes));
    const root = join(server.folder, `data-${blockBytes}`);
    mkdirSync(root);
    const workload = makeWorkload({ server, root, blockBytes, blocks });
    const { medians, ...rest } = await contest(CONTENDERS, workload, { rounds, unitBytes: 1e9 });
    measured.push({ blockBytes, blocks, gigabytesPerSecond: medians, ...rest });
    print(measured.at(-1));
  }
} finally {
  await server.stop();
}
mkdirSync(results, { recursive: true });
const facts = { measuredAt: new Date().toISOString(), machine: machine(), rounds, mebibytes, measured };
writeFileSync(join(results, "sftp.json"), `${JSON.stringify(facts, null, 1)}\n`);
process.exit(0);

function print({ blockBytes, gigabytesPerSecond, kvferryOver }) {
  for (const phase of ["store", "load"]) {
    const speeds = Object.entries(gigabytesPerSecond).map(([name, each]) => `${name} ${each[phase].toFixed(3)}`);
    const ratios = Object.entries(kvferryOver).map(([name, each]) => `${each[phase].toFixed(2)} × ${name}`);
    const size = `${String(blockBytes / KIBIBYTE).padStart(5)} KiB`;
    console.log(`${size} ${phase.padEnd(5)} GB/s: ${speeds.join(", ")}; ${ratios.join(", ")}`);
  }
}
