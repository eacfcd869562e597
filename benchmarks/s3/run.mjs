#!/usr/bin/env node
// `npm run bench:s3`: S3Backend beside loops over the bare SDK, against the same real servers, in alternating rounds.
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { CreateBucketCommand, S3Client } from "@aws-sdk/client-s3";
import { cleanUpAtExit } from "../../scripts/lib/processes.mjs";
import { buildS3Servers, S3_SERVER_NAMES, startS3Server } from "../../scripts/lib/s3-servers.mjs";
import { contest, makeWorkload } from "../lib/contest.mjs";
import { machine } from "../lib/machine.mjs";
import { CONTENDERS } from "./contenders.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const results = join(root, "benchmarks/results");
const KIBIBYTE = 1024;

const HELP = `Usage: npm run bench:s3 -- [options]

  --rounds N        rounds that are reported (default 5; one more before them is not)
  --mebibytes N     bytes of a phase (default 128)
  --concurrency N   requests at once, the same for all (default 16)
  --blocks LIST     KiB a block (default 256,1024,4096)
  --server NAME     only this server: ${S3_SERVER_NAMES.join(", ")}
  --help            this text

Contenders, with the same number of requests at once and kept connections:
  kvferry    S3Backend: conditional creates, CRC-32C given to the server, every load verified
  sdk        PutObject and GetObject as the SDK does them by default, loads by transformToByteArray
  sdk-lean   the same with checksums off and payloads unsigned, loads copied into the slot as they come

Writes benchmarks/results/s3.json. Only ratios within one run mean anything, and only on a machine that does nothing else.
`;
const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    mebibytes: { type: "string", default: "128" },
    concurrency: { type: "string", default: "16" },
    blocks: { type: "string", default: "256,1024,4096" },
    server: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

const [rounds, mebibytes, concurrency] = [flags.rounds, flags.mebibytes, flags.concurrency].map(Number);
const blockSizes = flags.blocks.split(",").map((size) => Number(size) * KIBIBYTE);
cleanUpAtExit(() => {});

await buildS3Servers();
const measured = [];
for (const name of flags.server ? [flags.server] : S3_SERVER_NAMES) measured.push(...(await benchmarkServer(name)));
mkdirSync(results, { recursive: true });
const facts = { measuredAt: new Date().toISOString(), machine: machine(), rounds, mebibytes, concurrency, measured };
writeFileSync(join(results, "s3.json"), `${JSON.stringify(facts, null, 1)}\n`);
process.exit(0);

async function benchmarkServer(name) {
  const server = await startS3Server(name);
  const { endpoint, region, credentials } = server;
  process.env.AWS_ACCESS_KEY_ID = credentials.accessKeyId;
  process.env.AWS_SECRET_ACCESS_KEY = credentials.secretAccessKey;
  const bucket = "kvferry-bench";
  const admin = new S3Client({ endpoint, region, forcePathStyle: true });
  await admin.send(new CreateBucketCommand({ Bucket: bucket }));
  const found = [];
  for (const blockBytes of blockSizes) {
    const blocks = Math.max(concurrency, Math.floor((mebibytes * KIBIBYTE * KIBIBYTE) / blockBytes));
    const workload = makeWorkload({ bucket, endpoint, region, concurrency, blockBytes, blocks });
    const { medians, ...rest } = await contest(CONTENDERS, workload, { rounds, unitBytes: 1e6 });
    found.push({ server: name, blockBytes, blocks, megabytesPerSecond: medians, ...rest });
    print(found.at(-1));
  }
  admin.destroy();
  await server.stop();
  return found;
}

function print({ server, blockBytes, megabytesPerSecond, kvferryOver }) {
  for (const phase of ["store", "load"]) {
    const speeds = Object.entries(megabytesPerSecond).map(([name, each]) => `${name} ${each[phase].toFixed(0)}`);
    const ratios = Object.entries(kvferryOver).map(([name, each]) => `${each[phase].toFixed(2)} × ${name}`);
    console.log(
      `${server.padEnd(10)} ${String(blockBytes / KIBIBYTE).padStart(5)} KiB ${phase.padEnd(5)} MB/s: ${speeds.join(", ")}; ${ratios.join(", ")}`,
    );
  }
}
