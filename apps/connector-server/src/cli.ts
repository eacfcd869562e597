import { KvferryError, toKvferryError } from "@kvferry/core";
import { Command, CommanderError, Option } from "commander";
import { checkConfig, printSchema } from "./commands/config.js";
import { EXIT_FAILED, EXIT_TAKEN, EXIT_USAGE } from "./commands/exit-codes.js";
import { type ServeFlags, serve } from "./commands/serve.js";
import { type StatusFlags, status } from "./commands/status.js";
import { HTTP_DEFAULT } from "./config.js";
import { version } from "./version.js";

const EXAMPLES = `
Examples:
  kvferry serve                                     blocks in ~/.local/share/kvferry, metrics at ${HTTP_DEFAULT}
  kvferry serve --data /mnt/nvme/kv --http off
  kvferry serve --config /etc/kvferry.yaml
  kvferry config check /etc/kvferry.yaml
  kvferry status --json

Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 3 socket or port taken.
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
  const config = root.command("config").description("check configurations, or print their schema");
  config.command("schema").description("print the JSON Schema").action(printSchema);
  config.command("check <file>").description("check a configuration file").action(checkConfig);
  return root;
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
