import { KvferryError, toKvferryError } from "@kvferry/core";
import { Command, CommanderError, Option } from "commander";
import { type BenchFlags, bench } from "./commands/bench.js";
import { checkConfig, printSchema } from "./commands/config.js";
import { type CopyFlags, copy } from "./commands/copy.js";
import { type DoctorFlags, doctor } from "./commands/doctor.js";
import { EXIT_FAILED, EXIT_TAKEN, EXIT_USAGE } from "./commands/exit-codes.js";
import { type GcFlags, gc } from "./commands/gc.js";
import { type InspectFlags, inspect } from "./commands/inspect.js";
import { type ServeFlags, serve } from "./commands/serve.js";
import { type StatusFlags, status } from "./commands/status.js";
import { type VerifyFlags, verify } from "./commands/verify.js";
import { type WarmFlags, warm } from "./commands/warm.js";
import { HTTP_DEFAULT } from "./config.js";
import { version } from "./version.js";

const EXAMPLES = `
Examples:
  kvferry serve                                     blocks in ~/.local/share/kvferry, metrics at ${HTTP_DEFAULT}
  kvferry serve --data /mnt/nvme/kv --http off
  kvferry serve --config /etc/kvferry.yaml
  kvferry config check /etc/kvferry.yaml
  kvferry status --json
  kvferry warm --config /etc/kvferry.yaml --rate 1GiB
  kvferry verify --config /etc/kvferry.yaml --rate 200MiB
  kvferry gc --config /etc/kvferry.yaml --unused-for 30d --dry-run
  kvferry inspect --stats --data /mnt/nvme/kv
  kvferry doctor /mnt/nvme /mnt/shared --write kvferry.yaml
  kvferry doctor --cuda
  kvferry bench /mnt/nvme --backend nvme
  kvferry copy posix:/mnt/kv 'nvme:/mnt/nvme/kv?capacity=800GiB' --rate 500MiB

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 socket or port taken.
`;

const COPY_HELP = `
FROM and TO are tiers of the configuration, by name, or places:
  posix:/path            with ?layout=vllm-fs&adopt=true for a folder of vLLM's fs tier
  nfs:/path              on NFS
  parallel-fs:/path      on Lustre or Storage Scale
  nvme:/path             with ?capacity=800GiB where there is no drive yet
  s3:bucket/prefix       with ?region=eu-central-1, or ?endpoint=https://storage.example:9000
  sftp:user@host/path    with ?privateKeyFile=id_ed25519&knownHostsFile=known_hosts; user@host:2222/path for another port
after the ? come fields of a tier in the configuration, with & between them.

Examples:
  kvferry copy posix:/mnt/kv 's3:kv-cache/site-b?region=eu-central-1' --rate 200MiB
  kvferry copy 'posix:/mnt/kv?layout=vllm-fs&adopt=true' 'nvme:/mnt/nvme/kv?capacity=800GiB'
  kvferry copy posix s3 --config /etc/kvferry.yaml --dry-run
`;

const WARM_HELP = `
What was used last comes first, and the beginning of a chain before its end. No block has to go for another: it ends when the
faster tiers are full. Engines' loads come first. Ctrl-C ends it, and what is there stays.

Examples:
  kvferry warm                                       the server at the default socket
  kvferry warm --config /etc/kvferry.yaml --bytes 64GiB --rate 1GiB
  kvferry warm --socket /run/kvferry/kvferry.sock --namespace 3f2a --json

To warm at every start: 'warm: {rate: 1GiB}' in the server's configuration.
`;

function program(): Command {
  const root = new Command("kvferry")
    .description("Keeps the KV cache of LLM engines on storage.")
    .version(version)
    .showSuggestionAfterError()
    .exitOverride()
    .addHelpText("after", EXAMPLES);
  root
    .command("serve")
    .description("run the connector server until SIGTERM or SIGINT; flags win over the file")
    .option("-c, --config <file>", "configuration (YAML)")
    .option("--data <dir>", "folder that holds the blocks")
    .option("--socket <path>", "Unix socket that engines connect to")
    .option("--http <host:port>", "metrics, health and status; 'off' for none")
    .addOption(
      new Option("--log-level <level>", "least important lines to log").choices([
        "debug",
        "info",
        "warn",
        "error",
        "silent",
      ]),
    )
    .option("--json", "log JSON lines even to a terminal")
    .action((flags: ServeFlags) => serve(flags));
  root
    .command("status")
    .description("ask a running server how it is")
    .option("--http <host:port>", "where the server answers", HTTP_DEFAULT)
    .option("--json", "the whole answer as JSON")
    .action((flags: StatusFlags) => status(flags));
  warmCommand(root);
  maintenance(root);
  root
    .command("doctor [places...]")
    .description("say what folders and buckets (s3://bucket/prefix) can do, what that means and what to change")
    .option("--endpoint <url>", "of S3 that is not Amazon's")
    .option("--region <region>", "of the bucket")
    .option("--write <file>", "write a configuration with the tiers that suit")
    .option("--report <file>", "write all that was measured, to be shared")
    .option(
      "--observer <command>",
      "the second client's command, for instance 'ssh node2 kvferry doctor --observe /mnt/kv'",
    )
    .option("--timeout <time>", "how long a step may take", "45s")
    .option("--cuda", "say whether direct mode can reach the GPUs here, and how fast, instead of places")
    .option("--quick", "leave the speeds of folders and GPUs out")
    .option("--json", "the whole result as JSON, without a progress bar")
    .addOption(new Option("--observe", "be the second client of another doctor, over stdin and stdout").hideHelp())
    .addOption(new Option("--probe", "what the doctor starts for each folder").hideHelp())
    .addOption(new Option("--cuda-probe", "what the doctor starts for GPUs").hideHelp())
    .addOption(new Option("--cuda-memory", "own memory of a GPU, for another doctor").hideHelp())
    .action((places: string[], flags: DoctorFlags) => doctor(places, flags));
  root
    .command("bench <path>")
    .description("measure stores, loads and lookups in a folder as an engine does them")
    .addOption(new Option("--backend <name>", "of the tier").choices(["posix", "nvme"]).default("posix"))
    .option("--blocks <sizes>", "sizes of blocks, with commas between them", "256KiB,1MiB,4MiB")
    .option("--bytes <size>", "stored and loaded at each size", "512MiB")
    .option("--plot <file>", "write a picture (SVG)")
    .option("--json", "the result as JSON, without a progress bar")
    .action((path: string, flags: BenchFlags) => bench(path, flags));
  copyCommand(root);
  const config = root.command("config").description("check configurations, or print their schema");
  config.command("schema").description("print the JSON Schema").action(printSchema);
  config.command("check <file>").description("check a configuration file").action(checkConfig);
  return root;
}

/** Commands over the storage itself. They work beside a running server, but for an nvme tier, which one process holds. */
function maintenance(root: Command): void {
  const command = (name: string, description: string): Command =>
    root
      .command(name)
      .description(description)
      .option("-c, --config <file>", "configuration (YAML) that names the tiers")
      .option("--data <dir>", "folder that holds the blocks, instead of a configuration")
      .option("--tier <name>", "only this tier")
      .option("--namespace <digest>", "only this namespace; its first digits are enough")
      .option("--json", "the whole result as JSON, without a progress bar");
  command("verify", "read every block and check it; damaged ones are set aside")
    .option("--rate <size>", "bytes a second, at most, for instance 200MiB")
    .action((flags: VerifyFlags) => verify(flags));
  command("gc", "remove blocks that nobody has used for long, and what ended writers left behind")
    .requiredOption("--unused-for <time>", "for instance 30d or 12h")
    .option("--dry-run", "say what would go, and remove nothing")
    .action((flags: GcFlags) => gc(flags));
  command("inspect [key]", "say where a block is and whether it is sound, or what is stored")
    .option("--stats", "blocks, bytes and ages of every namespace")
    .action((key: string | undefined, flags: InspectFlags) => inspect(key, flags));
}

function warmCommand(root: Command): void {
  root
    .command("warm")
    .description("have a running server put the hottest blocks of its slower tiers into the faster ones")
    .option("-c, --config <file>", "the server's configuration (YAML), which names its socket")
    .option("--socket <path>", "the server's Unix socket")
    .option("--bytes <size>", "bytes of blocks, at most; default: as much as has room")
    .option("--rate <size>", "bytes a second, at most, for instance 1GiB")
    .option("--namespace <digest>", "only this namespace; its first digits are enough")
    .option("--json", "the whole result as JSON, without a progress bar")
    .addHelpText("after", WARM_HELP)
    .action((flags: WarmFlags) => warm(flags));
}

function copyCommand(root: Command): void {
  root
    .command("copy <from> <to>")
    .description("copy the blocks that FROM has and TO has not; run it again to go on")
    .option("-c, --config <file>", "configuration (YAML), where FROM or TO is the name of a tier")
    .option(
      "--namespace <digest>",
      "only this namespace, by its first digits; may be given several times",
      (digest: string, before: readonly string[] = []) => [...before, digest],
    )
    .option("--rate <size>", "bytes a second that are read from FROM, at most, for instance 200MiB")
    .option("--concurrency <blocks>", "blocks on the way at a time, at most; memory bounds it, too", "64")
    .option("--verify", "read every copy back and compare it")
    .option("--dry-run", "say what would be copied, and make nothing in TO")
    .option("--json", "the whole result as JSON, without a progress bar")
    .addHelpText("after", COPY_HELP)
    .action((from: string, to: string, flags: CopyFlags) => copy(from, to, flags));
}

async function main(): Promise<void> {
  try {
    await program().parseAsync();
  } catch (thrown) {
    process.exitCode = report(thrown);
  }
}

function report(thrown: unknown): number {
  if (thrown instanceof CommanderError) return thrown.exitCode === 0 ? 0 : EXIT_USAGE; // commander has said it
  const error = toKvferryError(thrown, "kvferry");
  process.stderr.write(`kvferry: ${error.message}\n`);
  if (error.code === "INTERNAL" && !(thrown instanceof KvferryError))
    process.stderr.write(`${(thrown as Error).stack}\n`);
  if (error.code === "CONFIG_INVALID") return EXIT_USAGE;
  return error.code === "UNAVAILABLE" && error.operation === "listen" ? EXIT_TAKEN : EXIT_FAILED;
}

await main();
