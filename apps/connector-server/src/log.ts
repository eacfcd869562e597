import type { Logger } from "@kvferry/core";
import { type DestinationStream, destination, pino } from "pino";
import type { LogLevel } from "./config.js";

/** What may wait for a slow reader of stderr; older lines than that are lost rather than the server's time. */
const BUFFER_BYTES_MAX = 2 ** 20;

export interface ServerLogger extends Logger {
  /** Writes what is buffered, before the process ends. */
  flush(): void;
}

/** A logger to stderr: JSON lines, or short ones for people at a terminal. */
export function createLogger(level: LogLevel, json: boolean = process.stderr.isTTY !== true): ServerLogger {
  const stderr = destination({ dest: 2, sync: false, maxLength: BUFFER_BYTES_MAX });
  const stream: DestinationStream = json ? stderr : { write: (line) => void stderr.write(pretty(line)) };
  const logger = pino({ level, base: { name: "kvferry" }, timestamp: pino.stdTimeFunctions.isoTime }, stream);
  return {
    debug: (facts, message) => logger.debug(facts, message),
    info: (facts, message) => logger.info(facts, message),
    warn: (facts, message) => logger.warn(facts, message),
    error: (facts, message) => logger.error(facts, message),
    flush() {
      try {
        stderr.flushSync();
      } catch {
        // stderr is gone or not ready: there is nobody to tell
      }
    },
  };
}

const LEVEL_NAMES: Readonly<Record<number, string>> = { 20: "debug", 30: "info ", 40: "WARN ", 50: "ERROR" };

function pretty(line: string): string {
  const { level, time, name: _name, msg, ...facts } = JSON.parse(line) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const details = Object.entries(facts).map(
    ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return `${clock} ${LEVEL_NAMES[Number(level)] ?? level} ${msg} ${details.join(" ")}\n`;
}
