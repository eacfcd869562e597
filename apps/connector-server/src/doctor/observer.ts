import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { readLines, writeLine } from "./lines.js";

const POLL_MS = 2;
/** Names come from another process, perhaps of another host: nothing but files of a probe's own folder. */
const NAME = /^\.kvferry-doctor-[A-Za-z0-9]{1,32}\/[a-z0-9-]{1,64}$/;

/** What the observer is to wait for: that a file is there, holds a text, or is gone. */
export interface Watch {
  /** Answers have it: an earlier file that is seen at last is no answer to a later question. */
  readonly id: number;
  /** Below the observer's own path to the folder. */
  readonly name: string;
  readonly until: "there" | "gone" | { readonly text: string };
}

/**
 * The second client: looks at files as lookups and loads do, and says on stdout when it sees what it was asked for on stdin. It has a path of its own to the folder: through another
 * mount, or on another host. Ends when its stdin ends.
 */
export function observe(folder: string): Promise<void> {
  return new Promise((resolve) => {
    let ended = false;
    readLines(process.stdin, (message) => {
      const watch = message as unknown as Watch;
      if (typeof watch.name !== "string" || !NAME.test(watch.name)) return;
      void wait(join(folder, watch.name), watch, () => ended);
    });
    process.stdin.on("end", () => {
      ended = true;
      resolve();
    });
  });
}

async function wait(path: string, { id, until }: Watch, ended: () => boolean): Promise<void> {
  for (let looked = false; !ended(); looked = true) {
    if (await isSeen(path, until)) {
      writeLine(process.stdout, { saw: id });
      return;
    }
    if (!looked) writeLine(process.stdout, { looking: id }); // it has seen that it is not so yet
    await sleep(POLL_MS);
  }
}

async function isSeen(path: string, until: Watch["until"]): Promise<boolean> {
  try {
    if (typeof until === "object") return (await readFile(path, "utf8")) === until.text;
    await stat(path);
    return until === "there";
  } catch (thrown) {
    return until === "gone" && (thrown as NodeJS.ErrnoException).code === "ENOENT";
  }
}
