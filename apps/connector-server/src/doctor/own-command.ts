import { fileURLToPath } from "node:url";

/** How to run a command of this very program. */
export function ownCommand(...args: string[]): [string, string[]] {
  return [process.execPath, [fileURLToPath(new URL("./cli.js", import.meta.url)), ...args]];
}
