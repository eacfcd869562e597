import { closeSync, mkdirSync, openSync, statSync } from "node:fs";
import { join } from "node:path";
import type { FolderFacts } from "@kvferry/core";

const FILES = 256;
const FILES_A_FOLDER = 4;

/** What a file costs: to be made in one folder, to be made in many, and to be looked up. Calls that block, one after the other: this process does
 * nothing else. */
export function measureFiles(scratch: string): FolderFacts["files"] {
  const one = join(scratch, "files");
  mkdirSync(one);
  const createUs = timed((i) => touch(join(one, String(i))));
  const lookupUs = timed((i) => statSync(join(one, String(i))));
  const spreadUs = timed((i) => {
    const folder = join(scratch, `files-${Math.floor(i / FILES_A_FOLDER)}`);
    if (i % FILES_A_FOLDER === 0) mkdirSync(folder);
    touch(join(folder, String(i)));
  });
  return { createUs, spreadUs, lookupUs };
}

/** µs a step. */
function timed(step: (index: number) => void): number {
  const startMs = performance.now();
  for (let i = 0; i < FILES; i++) step(i);
  return ((performance.now() - startMs) * 1000) / FILES;
}

function touch(path: string): void {
  closeSync(openSync(path, "wx", 0o600));
}
