import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { type RootStatus, storedBlockBytes, type Usage } from "@kvferry/core";
import { afterEach, expect, it } from "vitest";
import { describeServers, type TestServer } from "../servers.js";
import { BLOCK_BYTES } from "./blocks.mjs";
import { blockObjects } from "./listing.js";

const ROUNDS = process.env.KVFERRY_LONG === "1" ? 60 : 3;
const SERVERS = 3;
const FILE_BYTES = storedBlockBytes(BLOCK_BYTES);
const CAPACITY_BYTES = 150 * FILE_BYTES + 1000;
const program = fileURLToPath(new URL("./capacity-server.mjs", import.meta.url));

interface Done {
  readonly stored: number;
  readonly loaded: number;
  readonly failed: number;
  readonly wrong: number;
}

interface Line {
  readonly open?: true;
  readonly done?: Done;
  readonly leads?: boolean;
  readonly usage?: Usage;
  readonly status?: RootStatus;
}

/** A child process that stores, loads and evicts. */
class Server {
  readonly child: ChildProcess;
  done: Done = { stored: 0, loaded: 0, failed: 0, wrong: 0 };
  leads = false;
  isOpen = false;
  /** Stands still until it is told to go on. */
  stopped = false;
  #answer: ((line: Line) => void) | undefined;

  constructor(config: object, seed: number) {
    const args = ["--no-warnings", program, JSON.stringify(config), String(seed)];
    this.child = spawn(process.execPath, args, { stdio: ["pipe", "pipe", "inherit"] });
    createInterface({ input: this.child.stdout as NodeJS.ReadableStream }).on("line", (text) => {
      const line = JSON.parse(text) as Line;
      if (line.open) this.isOpen = true;
      if (line.done !== undefined) this.done = line.done;
      if (line.leads !== undefined) this.leads = line.leads;
      if (line.usage !== undefined) this.#answer?.(line);
    });
  }

  tell(command: "go"): void {
    this.child.stdin?.write(`${command}\n`);
  }

  usage(): Promise<Line> {
    return new Promise((resolve) => {
      this.#answer = resolve;
      this.child.stdin?.write("usage\n");
    });
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exit = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await exit;
  }

  /** Stands still when this returns, all threads of it. */
  async freeze(): Promise<void> {
    this.child.kill("SIGSTOP");
    const folder = `/proc/${this.child.pid}/task`;
    const still = (): boolean =>
      readdirSync(folder).every((task) => / [TtZX] /.test(readFileSync(join(folder, task, "stat"), "utf8")));
    await until("a process stands still", still);
  }

  thaw(): void {
    this.child.kill("SIGCONT");
  }
}

let servers: Server[] = [];
afterEach(async () => {
  for (const server of servers) await server.kill();
  servers = [];
});

async function until(what: string, done: () => boolean, triesMax: number = 6000): Promise<void> {
  for (let i = 0; i < triesMax; i++) {
    if (done()) return;
    await sleep(10);
  }
  throw new Error(`in vain waited until ${what}`);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** One prefix, its servers, and what goes wrong with them. */
class Fleet {
  readonly #storage: TestServer;
  readonly #bucket: string;

  constructor(storage: TestServer, bucket: string) {
    this.#storage = storage;
    this.#bucket = bucket;
  }

  async start(seed: number): Promise<Server> {
    const server = new Server(this.#storage.config(this.#bucket, { capacityBytes: CAPACITY_BYTES }), seed);
    servers.push(server);
    await until("a server is open", () => server.isOpen);
    return server;
  }

  /** Some moments at which no server moves. */
  async watch(times: number): Promise<void> {
    for (let i = 0; i < times; i++) {
      await sleep(5 + Math.random() * 100);
      const running = servers.filter(({ stopped }) => !stopped);
      await Promise.all(running.map((server) => server.freeze()));
      const { bytes } = await this.#measure();
      for (const server of running) server.thaw();
      expect(bytes).toBeLessThanOrEqual(CAPACITY_BYTES);
    }
  }

  async disturb(round: number): Promise<void> {
    const target = pick();
    if (round % 3 === 2) await this.#killAll(round);
    else if (round % 3 === 1) {
      await target.freeze();
      target.stopped = true;
      await this.#storesGoOn(); // a new leader, if that was it
      target.thaw();
      target.stopped = false;
    } else {
      await target.kill();
      servers = servers.filter((server) => server !== target);
      await this.#storesGoOn();
    }
  }

  /** Bytes of all objects of blocks, damaged ones too, and how many blocks have a name. */
  async #measure(): Promise<{ bytes: number; blocks: number }> {
    const objects = await blockObjects(this.#storage, this.#bucket);
    const bytes = objects.reduce((sum, object) => sum + object.bytes, 0);
    const blocks = objects.filter(({ name }) => /\/[0-9a-f]{2}\/[0-9a-f]+$/.test(name)).length;
    return { bytes, blocks };
  }

  /** Those that are left store on, whoever has gone or stands still. */
  async #storesGoOn(): Promise<void> {
    const before = new Map(servers.map((server) => [server, server.done.stored]));
    const one = (): boolean =>
      servers.some((server) => !server.stopped && server.done.stored > (before.get(server) ?? 0) + 16);
    for (let i = 0; i < 600 && !one(); i++) await this.watch(1);
    expect(one(), "stores go on").toBe(true);
  }

  /** All are killed at once; who comes next counts what is there. */
  async #killAll(round: number): Promise<void> {
    await Promise.all(servers.map((server) => server.kill()));
    servers = [];
    const server = await this.start(1000 * round);
    await until("it leads", () => server.leads);
    let line = await server.usage();
    for (let i = 0; i < 1000 && !isSettled(line); i++) {
      await sleep(50);
      line = await server.usage();
    }
    const found = await this.#measure();
    expect(found.bytes).toBeLessThanOrEqual(CAPACITY_BYTES);
    expect(line.status?.count).toMatchObject({
      counted: { bytes: found.blocks * FILE_BYTES, files: found.blocks },
      outstanding: { bytes: 0, files: 0 },
    });
    server.tell("go");
  }
}

/** The leader has counted everything, and knows that those who were killed will not store any more. */
function isSettled({ status }: Line): boolean {
  return status?.count?.ready === true && status.count.outstanding.bytes === 0;
}

function pick(): Server {
  const leader = servers.find(({ leads, stopped }) => leads && !stopped);
  const any = servers[Math.floor(Math.random() * servers.length)] as Server;
  return Math.random() < 0.5 ? (leader ?? any) : any;
}

describeServers("three servers over one prefix", (storage) => {
  it(`hold its capacity while any of them is killed or stands still, ${ROUNDS} times`, {
    timeout: 120_000 + ROUNDS * 30_000,
  }, async () => {
    const fleet = new Fleet(storage(), await storage().bucket());
    let [stored, loaded] = [0, 0];
    for (let round = 0; round < ROUNDS; round++) {
      for (let i = 0; servers.length < SERVERS; i++) (await fleet.start(1000 * round + i)).tell("go");
      await fleet.watch(6);
      for (const { done } of servers) {
        stored += done.stored;
        loaded += done.loaded;
      }
      await fleet.disturb(round);
      await fleet.watch(2);
      for (const { done } of servers) expect(done).toMatchObject({ failed: 0, wrong: 0 });
    }
    expect(stored).toBeGreaterThan(0);
    expect(loaded).toBeGreaterThan(0);
  });
});
