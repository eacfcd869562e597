import { constants } from "node:os";
import { resolve } from "node:path";
import { KvferryError } from "@kvferry/core";
import { exitWithin } from "@kvferry/native";
import { type LogLevel, resolveConfig, type ServerConfig } from "../config.js";
import { readConfigFile } from "../config-file.js";
import { createLogger, type ServerLogger } from "../log.js";
import { type RunningServer, startServer } from "../server.js";
import { EXIT_FAILED, EXIT_SIGNALLED } from "./exit-codes.js";

/** Ms that the end of the process may take: threads of Node's own that hang in a file system would hold it up for ever. */
const EXIT_MS = 2_000;

export interface ServeFlags {
  readonly config?: string;
  readonly data?: string;
  readonly socket?: string;
  readonly http?: string;
  readonly logLevel?: LogLevel;
  readonly json?: boolean;
}

/** Runs the server until a signal ends it. */
export async function serve(flags: ServeFlags): Promise<void> {
  const config = withFlags(flags.config === undefined ? {} : readConfigFile(flags.config), flags);
  const logger = createLogger(resolveConfig(config).logLevel, flags.json === true ? true : undefined);
  let server: RunningServer | undefined;
  const stop = onSignals(logger, async () => {
    // A signal while starting ends the process: nothing has been promised to anybody yet.
    await server?.close();
    await logger.drained();
    process.exit(exitWith(logger, 0));
  });
  try {
    server = await startServer(config, { logger });
  } catch (thrown) {
    stop();
    logger.flush();
    throw thrown;
  }
}

/** Flags win over the file. */
function withFlags(file: ServerConfig, flags: ServeFlags): ServerConfig {
  const config = {
    ...file,
    ...(flags.socket === undefined ? {} : { socket: flags.socket }),
    ...(flags.http === undefined ? {} : { http: flags.http }),
    ...(flags.logLevel === undefined ? {} : { logLevel: flags.logLevel }),
  };
  if (flags.data === undefined) return config;
  const root = resolve(flags.data);
  const [tier] = file.tiers ?? [{ backend: "posix" as const, root }];
  if (tier?.backend !== "posix" || (file.tiers?.length ?? 1) !== 1) {
    throw new KvferryError(
      "CONFIG_INVALID",
      "--data names the folder of a posix tier; the configuration has another tier",
      {
        operation: "config",
        context: { field: "tiers" },
      },
    );
  }
  return { ...config, tiers: [{ ...tier, root }] };
}

/** The first SIGTERM or SIGINT drains; a second one ends the process at once. Returns the way to stop listening. */
function onSignals(logger: ServerLogger, drain: () => Promise<void>): () => void {
  let draining = false;
  const onSignal = (signal: NodeJS.Signals): void => {
    if (draining) process.exit(exitWith(logger, EXIT_SIGNALLED + constants.signals[signal]));
    draining = true;
    logger.info({ signal }, "ending; a second signal ends at once");
    drain().catch((error: unknown) => {
      logger.error({ error: String(error) }, "the drain failed");
      process.exit(exitWith(logger, EXIT_FAILED));
    });
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  return () => {
    process.off("SIGTERM", onSignal);
    process.off("SIGINT", onSignal);
  };
}

function exitWith(logger: ServerLogger, code: number): number {
  logger.flush();
  exitWithin(EXIT_MS, code);
  return code;
}
