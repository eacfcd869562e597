import { randomInt } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Outcome } from "@kvferry/core";
import { closeFd, connectUnix, createRegion } from "@kvferry/native";
import { type ClientMessage, type DirectHelloMessage, encodeMessage, type GatherMessage } from "@kvferry/protocol";
import { describe, expect, it, onTestFinished } from "vitest";
import { serveConfig } from "./child-server.js";
import {
  BLOCKS_PER_CHUNK,
  CHUNK_BYTES,
  connectEngine,
  layout,
  MEMORY_BYTES,
  MiB,
  metricOf,
  newEngine,
  PAGES,
  serveDirect,
  storeChunks,
  type TestEngine,
} from "./direct-helpers.js";
import { KEY_BYTES, namespace, RawClient, randomKeys, range, scratch } from "./helpers.js";

const FRAMES = process.env.KVFERRY_LONG ? 20_000 : 1_500;
const WORKERS = 8;

const all = (count: number, outcome: number): number[] => new Array(count).fill(outcome);

function hello(socket: string, role: "scheduler" | "worker"): DirectHelloMessage {
  const { engine, parts, partBytes } = newEngine(socket);
  const common = { engine, parts, partBytes };
  const memory = { kind: "region", memories: [{ bytes: MEMORY_BYTES }] } as const;
  return {
    t: "hello",
    version: 1,
    client: { name: "hostile", version: "1", instance: "raw" },
    namespace,
    keyBytes: KEY_BYTES,
    blockBytes: CHUNK_BYTES,
    vllmFs: null,
    events: role === "scheduler",
    direct:
      role === "scheduler"
        ? { role, ...common, workers: 1 }
        : { role, ...common, part: randomInt(2), stores: true, memory, ...layout },
  };
}

/** Of either role, most of them nothing that this server could be asked. */
function messages(): ClientMessage[] {
  const { bytes: keys } = randomKeys(4);
  const groups = new Uint32Array(4);
  const blocks = Uint32Array.from(range(4 * BLOCKS_PER_CHUNK));
  const id = randomInt(100);
  return [
    { t: "lookup", id, keys },
    { t: "hold", id, keys },
    { t: "release", keys },
    { t: "gather", id, ticket: randomInt(4), keys, groups, blocks },
    { t: "scatter", id, keys, groups, blocks },
    { t: "cancel", id: 1, target: id },
    { t: "store", id, keys, slots: groups },
  ];
}

function mutated(message: ClientMessage): Uint8Array {
  let frame = Buffer.from(encodeMessage(message));
  for (let i = randomInt(0, 5); i > 0; i--) frame[randomInt(4, frame.length)] = randomInt(256);
  if (randomInt(6) === 0) frame = frame.subarray(0, randomInt(5, frame.length + 1));
  if (randomInt(10) > 0) frame.writeUInt32LE(frame.length - 4);
  return frame;
}

/** Settles when the server has ended the connection. */
function sendAlone(socket: string, parts: readonly Uint8Array[], fd: number): Promise<void> {
  return new Promise((resolve) => {
    const connection = connectUnix(socket, {
      onData: (_bytes, received) => received.forEach(closeFd),
      onClose: () => resolve(),
    });
    for (const [i, part] of parts.entries()) connection.send(part, i === 0 ? [fd] : []);
    connection.end();
  });
}

async function expectWorks(engine: TestEngine): Promise<void> {
  const keys = randomKeys(6);
  expect(await storeChunks(engine, keys)).toEqual(all(6, Outcome.STORED));
  expect([...(await engine.scheduler.client.hold(keys)).outcomes]).toEqual(all(6, Outcome.LOADED));
  for (const { client, pages } of engine.workers) {
    pages.clear();
    expect([...(await client.scatter(pages.chunks(keys, 64))).outcomes]).toEqual(all(6, Outcome.LOADED));
    for (const i of range(6)) expect(pages.holds(keys, i, 64)).toBe(true);
  }
  engine.scheduler.client.release(keys);
}

describe("a server among hostile engines in direct mode", { timeout: 600_000 }, () => {
  it(`lives through ${FRAMES} connections with mutated frames; an engine next to them notices nothing`, async () => {
    const folder = scratch();
    const socket = join(folder, "kvferry.sock");
    const config = join(folder, "kvferry.yaml");
    const tiers = `[{ backend: memory, capacity: ${8 * MiB} }, { backend: posix, root: ${join(folder, "blocks")} }]`;
    writeFileSync(config, `socket: ${socket}\nhttp: "off"\nlogLevel: error\ntiers: ${tiers}\n`);
    const { child } = await serveConfig(config, socket);
    const engine = await connectEngine(socket);
    const region = createRegion({ rows: 1, rowBytes: MEMORY_BYTES });
    onTestFinished(() => region.close());
    let left = FRAMES;
    const attack = async (): Promise<void> => {
      while (left-- > 0) {
        const greeting = hello(socket, randomInt(2) === 0 ? "scheduler" : "worker");
        const first = randomInt(3) === 0 ? mutated(greeting) : encodeMessage(greeting);
        await sendAlone(socket, [first, ...messages().map(mutated)], region.fd);
      }
    };
    const attacking = Promise.all(range(WORKERS).map(attack));
    let isOver = false;
    void attacking.then(() => {
      isOver = true;
    });
    while (!isOver) await expectWorks(engine);
    await attacking;
    await expectWorks(engine);
    expect(child.exitCode).toBeNull();
  });

  it("gives an engine nothing of what another holds, and takes nothing from it", async () => {
    const served = await serveDirect();
    const [one, other] = [await connectEngine(served.socket), await connectEngine(served.socket)];
    const keys = randomKeys(4);
    await storeChunks(one, keys);
    await one.scheduler.client.hold(keys);
    other.scheduler.client.release(keys);
    await other.scheduler.client.ping();
    const { client, pages } = other.workers[0] as (typeof other.workers)[0];
    pages.clear();
    expect([...(await client.scatter(pages.chunks(keys))).outcomes]).toEqual(all(4, Outcome.MISS));
    expect(pages.region.bytes.every((byte) => byte === 0xee)).toBe(true);
    expect(await metricOf(served, "kvferry_direct_held_blocks")).toBe(4);
  });

  it.each<readonly [string, string, Partial<GatherMessage>]>([
    ["keys that are cut off", "keys", { keys: new Uint8Array(KEY_BYTES + 1) }],
    ["more keys than a batch has", "keys", { keys: new Uint8Array(KEY_BYTES * 5000) }],
    ["fewer groups than keys", "groups", { groups: new Uint32Array(3) }],
    ["a group that is not there", "groups", { groups: Uint32Array.of(0, 0, 0, 1) }],
    ["fewer pages than keys have", "blocks", { blocks: new Uint32Array(7) }],
    ["a page that is not there", "blocks", { blocks: Uint32Array.of(0, 1, 2, 3, 4, 5, 6, PAGES) }],
  ])("refuses %s and goes on", async (_what, field, changes) => {
    const served = await serveDirect();
    const engine = await connectEngine(served.socket, 1);
    const keys = randomKeys(4);
    const raw = new RawClient(served.socket);
    const region = createRegion({ rows: 1, rowBytes: MEMORY_BYTES });
    onTestFinished(() => {
      raw.connection.close();
      region.close();
    });
    const greeting = hello(served.socket, "worker");
    raw.send({ ...greeting, direct: { ...greeting.direct, engine: engine.identity.engine, part: 1 } as never }, [
      region.fd,
    ]);
    await raw.next("welcome");
    const blocks = Uint32Array.from(range(4 * BLOCKS_PER_CHUNK));
    const chunks = { keys: keys.bytes, groups: new Uint32Array(4), blocks };
    raw.send({ t: "gather", id: 1, ticket: 9, ...chunks, ...changes });
    expect(await raw.next("error")).toMatchObject({ id: 1, code: "INVALID_ARGUMENT", context: { field } });
    raw.send({ t: "ping", id: 2 });
    expect(await raw.next("pong")).toMatchObject({ id: 2 });
    raw.send({ t: "hold", id: 3, keys: keys.bytes });
    expect(await raw.next("error")).toMatchObject({ code: "PROTOCOL", context: { field: "t" } });
    await raw.closed;
    expect(await metricOf(served, "kvferry_direct_staging_slots_used")).toBe(0);
  });

  it("ends the connection of a scheduler whose RELEASE makes no sense, for nobody waits for an answer to it", async () => {
    const served = await serveDirect();
    const raw = new RawClient(served.socket);
    onTestFinished(() => raw.connection.close());
    raw.send(hello(served.socket, "scheduler"));
    await raw.next("welcome");
    raw.send({ t: "release", keys: new Uint8Array(KEY_BYTES - 1) });
    expect(await raw.next("error")).toMatchObject({ code: "INVALID_ARGUMENT", context: { field: "keys" } });
    await raw.closed;
  });
});
