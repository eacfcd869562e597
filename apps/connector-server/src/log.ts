import type { Logger } from "@kvferry/core";
import { type DestinationStream, destination, pino } from "pino";
import type { LogLevel } from "./config.js";

/** What may wait for a slow reader of stderr; older lines than that are lost rather than the server's time. */
const BUFFER_BYTES_MAX = 2 ** 20;

/** A reader of stderr that is stuck must not keep the process alive. */
const DRAIN_MS_MAX = 500;

export interface ServerLogger extends Logger {
  /** Settles when everything has been written, or after a short while. */
  drained(): Promise<void>;
  /** Writes what is buffered, before the process ends. */
  flush(): void;
}

/** A logger to stderr: JSON lines, or short ones for people at a terminal. */
export function createLogger(level: LogLevel, json: boolean = process.stderr.isTTY !== true): ServerLogger {
  const stderr = destination({ dest: 2, sync: false, maxLength: BUFFER_BYTES_MAX });
  const stream: DestinationStream = json ? stderr : { write: (line) => void stderr.write(pretty(line)) };
  const logger = pino(
    {
      level,
      base: { name: "kvferry" },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    stream,
  );
  return {
    debug: (facts, message) => logger.debug(facts, message),
    info: (facts, message) => logger.info(facts, message),
    warn: (facts, message) => logger.warn(facts, message),
    error: (facts, message) => logger.error(facts, message),
    drained() {
      return new Promise((resolve) => {
        setTimeout(resolve, DRAIN_MS_MAX).unref();
        stderr.flush(() => resolve());
      });
    },
    flush() {
      try {
        stderr.flushSync();
      } catch {
        // stderr is gone or not ready: there is nobody to tell
      }
    },
  };
}

function pretty(line: string): string {
  const { level, time, name: _name, msg, ...facts } = JSON.parse(line) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const details = Object.entries(facts).map(
    ([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`,
  );
  return `${clock} ${String(level).toUpperCase().padEnd(5)} ${msg} ${details.join(" ")}\n`;
}

const THROTTLE_LINES = 20;
const THROTTLE_MS = 10_000;

/** Bounds the lines that others can cause: some in a while; what is left out is counted. */
export class Throttle {
  #lines = 0;
  #sinceMs = -Infinity;
  #suppressed = 0;

  /** Whether the next line may be written, and how many were not since the last one. */
  next(nowMs: number = performance.now()): { readonly allowed: boolean; readonly suppressed: number } {
    if (nowMs - this.#sinceMs >= THROTTLE_MS) {
      this.#sinceMs = nowMs;
      this.#lines = 0;
    }
    if (++this.#lines > THROTTLE_LINES) {
      this.#suppressed++;
      return { allowed: false, suppressed: 0 };
    }
    const suppressed = this.#suppressed;
    this.#suppressed = 0;
    return { allowed: true, suppressed };
  }
}
