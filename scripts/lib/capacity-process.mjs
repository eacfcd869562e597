// The other end of capacity-server.mjs: a child process that stores, loads and evicts.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export class CapacityProcess {
  done = { stored: 0, loaded: 0, failed: 0, wrong: 0 };
  leads = false;
  isOpen = false;
  stopped = false;
  #answer;

  constructor(args) {
    this.child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: this.child.stdout }).on("line", (text) => {
      const line = JSON.parse(text);
      if (line.open) this.isOpen = true;
      if (line.done !== undefined) this.done = line.done;
      if (line.leads !== undefined) this.leads = line.leads;
      if (line.usage !== undefined) this.#answer?.(line);
    });
  }

  tell(command) {
    this.child.stdin.write(`${command}\n`);
  }

  usage() {
    return new Promise((resolve) => {
      this.#answer = resolve;
      this.child.stdin.write("usage\n");
    });
  }

  async kill() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exit = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exit;
  }

  async freeze() {
    this.child.kill("SIGSTOP");
    const folder = `/proc/${this.child.pid}/task`;
    const still = () =>
      readdirSync(folder).every((task) => / [TtZX] /.test(readFileSync(join(folder, task, "stat"), "utf8")));
    await until("a process stands still", still);
  }

  thaw() {
    this.child.kill("SIGCONT");
  }
}

export async function until(what, done, triesMax = 3000) {
  for (let i = 0; i < triesMax; i++) {
    if (done()) return;
    await sleep(10);
  }
  throw new Error(`in vain waited until ${what}`);
}

export function pickServer(servers) {
  const leader = servers.find(({ leads, stopped }) => leads && !stopped);
  const any = servers[Math.floor(Math.random() * servers.length)];
  return Math.random() < 0.5 ? (leader ?? any) : any;
}
