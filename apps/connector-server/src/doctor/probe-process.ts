import { type ChildProcess, spawn } from "node:child_process";
import { resolve } from "node:path";
import { type ErrorCode, type Finding, type FolderFacts, KvferryError, toKvferryError } from "@kvferry/core";
import { examineMount } from "./examine-mount.js";
import { readLines, writeLine } from "./lines.js";
import { measureFolder } from "./measure-folder.js";
import { ownCommand } from "./own-command.js";

/** After SIGTERM, for the probe to take its files away. */
const CLEAN_MS = 3000;

export interface ProbeOptions {
  readonly folder: string;
  readonly observer?: string | undefined;
  /** Leaves the speeds out. */
  readonly quick?: boolean | undefined;
  /** How long a step may take. */
  readonly stepMsMax: number;
  readonly signal?: AbortSignal | undefined;
  onStep?(done: number, step: string): void;
}

export interface ProbedFolder {
  readonly facts: FolderFacts;
  /** What the backend that is made for its file system says. */
  readonly own: readonly Finding[];
}

/** Probes a folder in a process of its own, which a file system may hang for ever without harm to this one.
 * @throws KvferryError DEADLINE that names the step that did not end; ABORTED; what the probe throws. */
export function probeFolder(options: ProbeOptions): Promise<ProbedFolder> {
  const folder = resolve(options.folder);
  const observer = options.observer === undefined ? [] : ["--observer", options.observer];
  const quick = options.quick === true ? ["--quick"] : [];
  const [command, args] = ownCommand("doctor", "--probe", folder, ...quick, ...observer);
  const probe = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], detached: true });
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
        reject(new KvferryError(code, message, { operation: "doctor", context: { path: folder } }));
      });
    const late = (): void =>
      fail("DEADLINE", `${folder} does not answer: '${step}' did not end within ${options.stepMsMax / 1000} s`);
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
        end(() => fulfil(message as unknown as ProbedFolder));
      } else if (typeof message.code === "string" && typeof message.message === "string") {
        const { code } = toKvferryError(Object.assign(new Error(message.message), { code: message.code }), "doctor");
        fail(code, message.message);
      }
    });
  });
}

/** What the process of its own does: the facts go to stdout. */
export async function probeHere(folder: string, quick: boolean, observer: string | undefined): Promise<void> {
  const onStep = (done: number, step: string): void => writeLine(process.stdout, { step, done });
  try {
    const facts = await measureFolder({ folder, observer, quick, onStep });
    const probed: ProbedFolder = { facts, own: await examineMount(facts) };
    writeLine(process.stdout, probed);
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
