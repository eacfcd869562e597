/** How to run a command of this very program. */
export function ownCommand(...args: string[]): [string, string[]] {
  return [process.execPath, [process.argv[1] as string, ...args]];
}
