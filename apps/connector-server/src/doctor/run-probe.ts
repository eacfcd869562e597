import { type ChildProcess, spawn } from "node:child_process";
import { type ErrorCode, KvferryError, toKvferryError } from "@kvferry/core";
import { readLines, writeLine } from "./lines.js";
import { ownCommand } from "./own-command.js";

/** After SIGTERM, for the probe to take its files away. */
const CLEAN_MS = 3000;

export interface ProbeOptions {
  /** How long a step may take. */
  readonly stepMsMax: number;
  readonly signal?: AbortSignal | undefined;
  onStep?(done: number, step: string): void;
}

/** Runs `kvferry doctor ARGS` in a process of its own, which what it probes may hang for ever without harm to this one. `path` is what errors name.
 * Resolves to the message that has `facts`. @throws KvferryError DEADLINE that names the step that did not end; ABORTED; what the probe throws. */
export function runProbe(
  path: string,
  args: readonly string[],
  options: ProbeOptions,
): Promise<Record<string, unknown>> {
  const [command, all] = ownCommand("doctor", ...args);
  const probe = spawn(command, all, { stdio: ["ignore", "pipe", "pipe"], detached: true });
  return new Promise((fulfil, reject) => {
    let step = "start";
    let said = "";
    const end = (settle: () => void): void => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", abort);
      settle();
    };
    const fail = (code: ErrorCode, message: string): void =>
      end(() => {
        stop(probe);
        reject(new KvferryError(code, message, { operation: "doctor", context: { path } }));
      });
    const late = (): void =>
      fail("DEADLINE", `${path} does not answer: '${step}' did not end within ${options.stepMsMax / 1000} s`);
    const abort = (): void => fail("ABORTED", "interrupted");
    let timer = setTimeout(late, options.stepMsMax);
    options.signal?.addEventListener("abort", abort, { once: true });
    probe.stderr.on("data", (chunk: Buffer) => {
      said = `${said}${chunk}`.slice(-2000);
    });
    probe.on("exit", (code, signal) => fail("INTERNAL", `the probe has ended with ${code ?? signal}: ${said.trim()}`));
    probe.on("error", (error) => fail("INTERNAL", `the probe could not be started: ${error.message}`));
    readLines(probe.stdout, (message) => {
      if (typeof message.step === "string" && typeof message.done === "number") {
        step = message.step;
        clearTimeout(timer);
        timer = setTimeout(late, options.stepMsMax);
        options.onStep?.(message.done, step);
      } else if (message.facts !== undefined) {
        end(() => fulfil(message));
      } else if (typeof message.code === "string" && typeof message.message === "string") {
        const { code } = toKvferryError(Object.assign(new Error(message.message), { code: message.code }), "doctor");
        fail(code, message.message);
      }
    });
  });
}

/** What the process of its own does: the facts, or why there are none, go to stdout. */
export async function answerProbe(
  measure: (onStep: (done: number, step: string) => void) => Promise<object>,
): Promise<void> {
  try {
    writeLine(process.stdout, await measure((done, step) => writeLine(process.stdout, { step, done })));
  } catch (thrown) {
    const { code, message } = toKvferryError(thrown, "doctor");
    writeLine(process.stdout, { code, message });
  }
}

/** It may hang in the kernel for ever: nobody waits for it. */
function stop(probe: ChildProcess): void {
  probe.removeAllListeners();
  probe.kill("SIGTERM");
  setTimeout(() => probe.kill("SIGKILL"), CLEAN_MS).unref();
  probe.stdout?.destroy();
  probe.stderr?.destroy();
  probe.unref();
}
