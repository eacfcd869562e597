import { type ChildProcess, spawn } from "node:child_process";
import { rename, unlink, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Visibility } from "@kvferry/core";
import { readLines, writeLine } from "./lines.js";
import type { Watch } from "./observer.js";
import { ownCommand } from "./own-command.js";

/** How long the second process may take to see a change. */
const SEEN_MS_MAX = 12_000;
/** … and to start, on a busy host or by way of a remote shell. */
const START_MS_MAX = 30_000;

export interface VisibilityOptions {
  /** The probe's own folder, directly below the folder that is probed. */
  readonly scratch: string;
  /** The folder as this process has it; the observer's path unless a command of the user's own says another. */
  readonly folder: string;
  /** A shell command that runs the observer elsewhere: `ssh node2 kvferry doctor --observe /mnt/kv`. */
  readonly observer: string | undefined;
  /** Called when it begins to wait for the next change to be seen. */
  onChange(change: string): void;
}

/** How long a second process takes to see that a file was made, replaced and removed. */
export async function measureVisibility(options: VisibilityOptions): Promise<Visibility> {
  const observer = new Observer(options);
  const who = options.observer ?? "a process of this host";
  try {
    const file = join(options.scratch, "seen");
    const name = `${basename(options.scratch)}/seen`;
    options.onChange("a new file");
    const createMs = await observer.timed({ name, until: "there" }, () => writeFile(file, "first"));
    options.onChange("a replaced file");
    const rewriteMs = await observer.timed({ name, until: { text: "other" } }, async () => {
      await writeFile(`${file}-next`, "other"); // as many bytes: the size does not give it away
      await rename(`${file}-next`, file);
    });
    options.onChange("a removed file");
    const unlinkMs = await observer.timed({ name, until: "gone" }, () => unlink(file));
    return { observer: who, createMs, rewriteMs, unlinkMs };
  } catch (thrown) {
    if (!(thrown instanceof ObserverFailure)) throw thrown;
    return { observer: who, createMs: undefined, rewriteMs: undefined, unlinkMs: undefined, failure: thrown.message };
  } finally {
    observer.end();
  }
}

class ObserverFailure extends Error {}

class Observer {
  readonly #process: ChildProcess;
  #onLine: (message: Record<string, unknown>) => void = () => {};
  #onExit: () => void = () => {};
  #exited = false;
  #watches = 0;

  constructor({ folder, observer }: VisibilityOptions) {
    const stdio = ["pipe", "pipe", "ignore"] as const;
    const [command, args] = ownCommand("doctor", "--observe", folder);
    this.#process =
      observer === undefined
        ? spawn(command, args, { stdio: [...stdio] })
        : spawn(observer, { stdio: [...stdio], shell: true });
    readLines(this.#process.stdout as NodeJS.ReadableStream, (message) => this.#onLine(message));
    const gone = (): void => {
      this.#exited = true;
      this.#onExit();
    };
    this.#process.on("error", gone);
    this.#process.on("exit", gone);
    this.#process.stdin?.on("error", gone);
  }

  /** Ms from the end of `change` until the observer has seen it, having looked before; undefined: not in time, or it sees what is not so yet. */
  async timed(what: Omit<Watch, "id">, change: () => Promise<void>): Promise<number | undefined> {
    const lookMs = this.#watches === 0 ? START_MS_MAX : SEEN_MS_MAX;
    const watch = { ...what, id: this.#watches++ };
    const first = this.#told(watch.id, lookMs);
    writeLine(this.#process.stdin as NodeJS.WritableStream, watch);
    const word = await first;
    if (word === undefined) throw this.#silent(lookMs);
    if (word === "saw") {
      await change();
      return undefined; // of a file that it has never seen it sees at once that it is gone
    }
    const saw = this.#told(watch.id, SEEN_MS_MAX).then((seen) => (seen === undefined ? undefined : performance.now()));
    await change();
    const changedMs = performance.now();
    const seenMs = await saw;
    return seenMs === undefined ? undefined : Math.max(0, seenMs - changedMs);
  }

  end(): void {
    this.#process.stdin?.end();
    this.#process.kill();
  }

  /** What the observer says next of a watch; undefined: nothing in time. */
  #told(id: number, ms: number): Promise<"looking" | "saw" | undefined> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => end(undefined), ms);
      const end = (word: "looking" | "saw" | undefined): void => {
        clearTimeout(timer);
        resolve(word);
      };
      this.#onLine = ({ looking, saw }) => {
        if (looking === id) end("looking");
        if (saw === id) end("saw");
      };
      this.#onExit = () => end(undefined);
      if (this.#exited) end(undefined);
    });
  }

  #silent(ms: number): ObserverFailure {
    const why = this.#exited ? "has ended" : `did not answer within ${ms / 1000} s`;
    return new ObserverFailure(`the observer ${why}: ${this.#process.spawnargs.join(" ")}`);
  }
}
