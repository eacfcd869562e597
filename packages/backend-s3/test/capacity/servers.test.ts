import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { storedBlockBytes } from "@kvferry/core";
import { afterEach, expect, it } from "vitest";
import { type CapacityAnswer, CapacityProcess, pickServer, until } from "../../../../scripts/lib/capacity-process.mjs";
import { describeServers, type TestServer } from "../servers.js";
import { BLOCK_BYTES } from "./blocks.mjs";
import { blockObjects } from "./listing.js";

const ROUNDS = process.env.KVFERRY_LONG === "1" ? 60 : 3;
const SERVERS = 3;
/** Looks, 10 ms apart: a storage answers later than a folder. */
const TRIES_MAX = 6000;
const FILE_BYTES = storedBlockBytes(BLOCK_BYTES);
const CAPACITY_BYTES = 150 * FILE_BYTES + 1000;
const program = fileURLToPath(new URL("./capacity-server.mjs", import.meta.url));

let servers: CapacityProcess[] = [];
afterEach(async () => {
  for (const server of servers) await server.kill();
  servers = [];
});

/** One prefix, its servers, and what goes wrong with them. */
class Fleet {
  readonly #storage: TestServer;
  readonly #bucket: string;

  constructor(storage: TestServer, bucket: string) {
    this.#storage = storage;
    this.#bucket = bucket;
  }

  async start(seed: number): Promise<CapacityProcess> {
    const config = this.#storage.config(this.#bucket, { capacityBytes: CAPACITY_BYTES });
    const server = new CapacityProcess(["--no-warnings", program, JSON.stringify(config), String(seed)]);
    servers.push(server);
    await until("a server is open", () => server.isOpen, TRIES_MAX);
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
    const target = pickServer(servers);
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
    await until("it leads", () => server.leads, TRIES_MAX);
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
function isSettled({ status }: CapacityAnswer): boolean {
  return status?.count?.ready === true && status.count.outstanding.bytes === 0;
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
