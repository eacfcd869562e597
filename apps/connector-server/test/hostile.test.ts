import { randomBytes, randomInt } from "node:crypto";
import { Outcome } from "@kvferry/core";
import { closeFd, connectUnix, createRegion, type UnixConnection } from "@kvferry/native";
import { type ClientMessage, encodeMessage } from "@kvferry/protocol";
import { describe, expect, it } from "vitest";
import { type ChildServer, serveInChild } from "./child-server.js";
import {
  BLOCK_BYTES,
  connect,
  fill,
  helloFor,
  holds,
  randomKeys,
  range,
  SLOTS,
  scratch,
  type TestClient,
} from "./helpers.js";

const RANDOM_FRAMES = 100_000;
const MUTATED_FRAMES = 10_000;
const WORKERS = 16;
const WARM_UP_FRAMES = 5_000;
/** Far more than a heap grows that is collected late, as on a busy machine; less than 3 KiB a frame, and a connection that is kept takes more. */
const RSS_GROWTH_BYTES_MAX = 256 * 2 ** 20;
const TIMEOUT_MS = 300_000;

/** Sends bytes on a connection of their own; settles when the server has ended it. */
function sendAlone(socket: string, parts: readonly Uint8Array[], fds: readonly number[] = []): Promise<void> {
  return new Promise((resolve) => {
    const connection = connectUnix(socket, {
      onData: (_bytes, received) => received.forEach(closeFd),
      onClose: () => resolve(),
    });
    for (const [i, part] of parts.entries()) connection.send(part, i === 0 ? fds : []);
    connection.end();
  });
}

function randomFrame(): Uint8Array {
  const body = randomBytes(randomInt(1, 200));
  // Every other one is at least a map, to get past the first byte.
  if (randomInt(2) === 0) body[0] = 0x80 + randomInt(16);
  const frame = Buffer.alloc(4 + body.length);
  frame.writeUInt32LE(randomInt(20) === 0 ? randomInt(2 ** 32) : body.length);
  body.copy(frame, 4);
  return frame;
}

function validMessages(): ClientMessage[] {
  const { bytes: keys } = randomKeys(4);
  const slots = Uint32Array.from(range(4));
  return [
    helloFor(),
    { t: "lookup", id: randomInt(100), keys },
    { t: "store", id: randomInt(100), keys, slots },
    { t: "load", id: randomInt(100), keys, slots },
    { t: "cancel", id: 1, target: randomInt(100) },
    { t: "ping", id: 2 },
  ];
}

/** A valid frame with some bytes changed, or some missing or too many. */
function mutatedFrame(message: ClientMessage): Uint8Array {
  let frame = Buffer.from(encodeMessage(message));
  for (let i = randomInt(1, 5); i > 0; i--) frame[randomInt(4, frame.length)] = randomInt(256);
  if (randomInt(4) === 0) frame = frame.subarray(0, randomInt(5, frame.length + 1));
  if (randomInt(10) > 0) frame.writeUInt32LE(frame.length - 4);
  return frame;
}

/** Runs `job` `count` times on some workers. */
async function times(count: number, job: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  const work = async (): Promise<void> => {
    for (let i = next++; i < count; i = next++) await job(i);
  };
  await Promise.all(range(WORKERS).map(work));
}

/** An engine that goes on storing and loading; counts its rounds, and fails at the first wrong answer. */
async function engineWorks({ client, region }: TestClient, until: Promise<void>): Promise<number> {
  let ended = false;
  void until.then(() => {
    ended = true;
  });
  let rounds = 0;
  for (; !ended; rounds++) {
    const keys = randomKeys(8);
    fill(region, keys, range(8));
    const stored = await client.store(keys, range(8));
    expect([...stored.outcomes]).toEqual(new Array(8).fill(Outcome.STORED));
    const loaded = await client.load(keys, range(8, 8));
    expect([...loaded.outcomes]).toEqual(new Array(8).fill(Outcome.LOADED));
    for (let i = 0; i < 8; i++) expect(holds(region, keys, i, 8 + i)).toBe(true);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return rounds;
}

async function attack(server: ChildServer, frames: number, job: (i: number) => Promise<void>): Promise<void> {
  const engine = await connect(server.socket);
  await times(Math.min(WARM_UP_FRAMES, frames / 2), job);
  const before = server.rssBytes();
  const attacking = times(frames - Math.min(WARM_UP_FRAMES, frames / 2), job);
  const rounds = await engineWorks(engine, attacking);
  await attacking;
  expect(rounds).toBeGreaterThan(0);
  expect(server.rssBytes() - before).toBeLessThan(RSS_GROWTH_BYTES_MAX);
  expect(server.child.exitCode).toBeNull();
  await engine.client.ping();
}

describe("a server among hostile clients", { timeout: TIMEOUT_MS }, () => {
  it(`lives through ${RANDOM_FRAMES} random frames, with bounded memory; an engine next to them notices nothing`, async () => {
    const server = await serveInChild(scratch(), ["--log-level", "error"]);
    await attack(server, RANDOM_FRAMES, () => sendAlone(server.socket, [randomFrame()]));
  });

  it(`lives through ${MUTATED_FRAMES} mutated valid frames, before and after HELLO`, async () => {
    const server = await serveInChild(scratch(), ["--log-level", "error"]);
    const region = createRegion({ rows: SLOTS, rowBytes: BLOCK_BYTES });
    const hello = encodeMessage(helloFor());
    await attack(server, MUTATED_FRAMES, async () => {
      const messages = validMessages();
      const message = messages[randomInt(messages.length)] as ClientMessage;
      const parts = message.t === "hello" ? [mutatedFrame(message)] : [hello, mutatedFrame(message)];
      await sendAlone(server.socket, parts, [region.fd]);
    });
    region.close();
  });

  it("is not kept by connections that say nothing or stop in the middle of a frame", async () => {
    const server = await serveInChild(scratch(), ["--log-level", "error"]);
    const idle: UnixConnection[] = [];
    for (let i = 0; i < 200; i++) {
      const connection = connectUnix(server.socket, { onData() {}, onClose() {} });
      connection.send(Uint8Array.of(0, 0, 1, 0, 0x81)); // 64 KiB are announced
      idle.push(connection);
      if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 20)); // the kernel's queue of connections is short
    }
    const engine = await connect(server.socket);
    await engine.client.ping();
    for (const connection of idle) connection.close();
  });
});
