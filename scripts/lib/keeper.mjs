// node keeper.mjs FOLDER COMMAND ARGUMENTS…: runs a command as long as its own standard input is open, so that it cannot outlive whoever started it, however
// that one ended. Then it kills the command with all that it has started, and removes the folder.
import { spawn } from "node:child_process";
import { rmSync } from "node:fs";
import { descendants, send } from "./descendants.mjs";

const [folder, command, ...args] = process.argv.slice(2);
const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"] });

function end(code) {
  for (const pid of descendants(process.pid)) send(pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
  process.exit(code);
}

child.on("error", () => end(127));
child.on("exit", (code) => end(code ?? 1));
process.stdin
  .on("end", () => end(0))
  .on("error", () => end(0))
  .resume();
for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, () => end(0));
