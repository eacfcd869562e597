// One of several hosts: a server with memory over NFS in a process of its own, and an engine's client that checks every byte.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { SoakEngine } from "../../../../benchmarks/soak/engine.mjs";
import { sleep } from "./blocks.mjs";

const PROGRAM = "apps/connector-server/bin/kvferry.js";
const BLOCK_BYTES = 16_384;
const DEADLINE_MS = 1000;
/** Chains of its own that a node remembers, to be asked for elsewhere. */
const FRESH_KEPT = 2;

export class TestNode {
  /** Name of the client's network namespace. */
  host;
  #file;
  #socket;
  #http;
  #server;
  #engine;
  #output = "";
  #fresh = [];
  #freshCount = 0;
  /** Requests that found no server. */
  #unreachable = 0;
  #ended = { requests: 0 };

  static async start({ root, host, port, negativeTtlMs, memoryBlocks }) {
    const node = new TestNode();
    node.host = host;
    const folder = mkdtempSync("/run/tmp/node-");
    node.#socket = join(folder, "socket");
    node.#file = join(folder, "kvferry.yaml");
    node.#http = `127.0.0.1:${port}`;
    const tiers = [
      { backend: "memory", capacity: memoryBlocks * BLOCK_BYTES },
      { backend: "nfs", root, capacity: "512MiB", negativeTtlMs, threads: 4, deadlineMs: DEADLINE_MS },
    ];
    writeFileSync(node.#file, JSON.stringify({ socket: node.#socket, http: node.#http, drainTimeoutMs: 1000, tiers }));
    await node.restart();
    return node;
  }

  async restart() {
    this.#server = spawn(process.execPath, [PROGRAM, "serve", "--config", this.#file], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    for (const stream of [this.#server.stdout, this.#server.stderr])
      stream.on("data", (text) => (this.#output = `${this.#output}${text}`.slice(-4000)));
    while (!(await accepts(this.#socket))) {
      if (this.#server.exitCode !== null) throw new Error(`the server of ${this.host} ended: ${this.#output}`);
      await sleep(50);
    }
  }

  kill() {
    this.#server.kill("SIGKILL");
  }

  async stop() {
    await this.#disconnect();
    if (this.#server.exitCode !== null || this.#server.signalCode !== null) return;
    const exit = once(this.#server, "exit");
    this.#server.kill("SIGTERM");
    await exit;
  }

  /** Looks a chain up, loads what is there and stores the rest; what became of it. An engine goes on without a server. */
  async request(ids) {
    const before = this.counts;
    try {
      this.#engine ??= await SoakEngine.connect(this.#socket, BLOCK_BYTES);
      await this.#engine.request(ids);
    } catch {
      this.#unreachable++;
      await this.#disconnect();
      await sleep(50);
    }
    return this.countsSince(before);
  }

  /** How many blocks of a chain are there from the first on, without loading any. */
  async look(ids) {
    this.#engine ??= await SoakEngine.connect(this.#socket, BLOCK_BYTES);
    return this.#engine.look(ids);
  }

  /** A chain that nobody has asked for yet. */
  freshChain(blocks) {
    const number = this.#freshCount++;
    const ids = Array.from({ length: blocks }, (_, i) => `${this.host} ${this.#file} ${number} ${i}`);
    this.#fresh = [...this.#fresh, ids].slice(-FRESH_KEPT);
    return ids;
  }

  /** Of them the last ones that were asked for. */
  lastFresh() {
    return this.#fresh;
  }

  get counts() {
    const counts = { ...this.#ended, unreachable: this.#unreachable };
    for (const [name, value] of Object.entries(this.#engine?.counts ?? {})) counts[name] = (counts[name] ?? 0) + value;
    return counts;
  }

  countsSince(before) {
    return Object.fromEntries(Object.entries(this.counts).map(([name, value]) => [name, value - (before[name] ?? 0)]));
  }

  /** Of the server's process. */
  facts() {
    const { pid } = this.#server;
    const rss = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
    return { threads: readdirSync(`/proc/${pid}/task`).length, rssBytes: Number(rss?.[1] ?? 0) * 1024 };
  }

  /** Blocks that were to be stored on NFS and were not, by the server's metrics. */
  async storesLost() {
    const metrics = await (await fetch(`http://${this.#http}/metrics`)).text();
    const lines = metrics.matchAll(
      /^kvferry_backend_keys_total\{backend="nfs",operation="store",outcome="(?:dropped|failed)",code="[A-Z_]*"\} (\d+)$/gm,
    );
    return [...lines].reduce((sum, [, blocks]) => sum + Number(blocks), 0);
  }

  async #disconnect() {
    const { counts } = this;
    const engine = this.#engine;
    this.#engine = undefined;
    const { unreachable, ...ended } = counts;
    this.#ended = ended;
    await engine?.close().catch(() => {});
  }
}

function accepts(path) {
  return new Promise((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}
