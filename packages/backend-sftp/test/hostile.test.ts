import { createServer } from "node:net";
import {
  createMemoryRegion,
  type KvferryError,
  LookupState,
  type OpenContext,
  Outcome,
  outcomeCode,
} from "@kvferry/core";
import { afterEach, beforeEach, expect, it } from "vitest";
import {
  batchOf,
  filled,
  KEY_BYTES,
  keysOf,
  namespaceOf,
  recordingLogger,
  sameBytes,
  until,
} from "../../backend-s3/test/fixtures.js";
import { SftpBackend, type SftpConfig } from "../src/index.js";
import { type Crookedness, type CrookedServer, startCrookedServer } from "./crooked-server.stand-in.js";
import { listen, Road } from "./road.js";
import { configOf, describeSshd } from "./server.js";
import { makeRoot } from "./storage.js";

// Servers that hang, answer in their own order, break off, or let in fewer connections than there could be.

const { FAILED, LOADED, STORED } = Outcome;
const BLOCK_BYTES = 300_000;
const context: OpenContext = { namespace: namespaceOf("hostile"), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES };
/** Longer than any test: who waits for it has failed. */
const NEVER_MS = 2 ** 31 - 1;
const [CLOSE, READ] = [4, 5];
const FAILURE = 4;
const DATA = 103;

let root: string;
let removeRoot: () => Promise<void>;
const opened: SftpBackend[] = [];
const atEnd: (() => void)[] = [];

function make(config: SftpConfig): SftpBackend {
  const backend = new SftpBackend(config);
  opened.push(backend);
  return backend;
}

async function open(config: SftpConfig, more: Partial<OpenContext> = {}): Promise<SftpBackend> {
  const backend = make(config);
  await backend.open({ ...context, ...more });
  return backend;
}

async function roundTrip(backend: SftpBackend, ids: readonly number[], blockBytes = BLOCK_BYTES): Promise<void> {
  const region = filled(ids, blockBytes);
  expect([...(await backend.store(batchOf(ids, region))).outcomes]).toEqual(ids.map(() => STORED));
  const into = createMemoryRegion(ids.length, blockBytes);
  expect([...(await backend.load(batchOf(ids, into))).outcomes]).toEqual(ids.map(() => LOADED));
  expect(sameBytes(into.bytes, region.bytes)).toBe(true);
}

const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const codeOf = (thrown: unknown): string => (thrown as KvferryError).code;

function useRoot(): void {
  beforeEach(async () => {
    ({ root, remove: removeRoot } = await makeRoot());
  });
  afterEach(async () => {
    for (const end of atEnd.splice(0)) end();
    await Promise.all(opened.splice(0).map((each) => each.close()));
    await removeRoot();
  });
}

describeSshd("sftp through a road of our own", (server) => {
  useRoot();

  async function road(): Promise<Road> {
    const made = new Road(server().port);
    await made.open();
    atEnd.push(() => made.close());
    return made;
  }

  const through = ({ port }: Road, more: Partial<SftpConfig> = {}): SftpConfig =>
    configOf(server(), root, { port, closeTimeoutMs: 100, ...more });

  it("one connection will do where further ones are never answered: nobody waits for those", async () => {
    const way = await road();
    way.answeredMax = 1;
    const backend = await open(through(way, { filesPerConnectionMax: 1, connectTimeoutMs: NEVER_MS }));
    await roundTrip(backend, range(12));
    expect(way.attempts).toBeGreaterThan(1);
    expect(backend.connections).toBe(1);
  });

  it("says once that fewer connections stand than might", async () => {
    const way = await road();
    const { logger, lines } = recordingLogger();
    const config = through(way, { filesPerConnectionMax: 1, reconnectMsMin: 0, reconnectMsMax: 1 });
    const backend = await open(config, { logger });
    way.refuse();
    const said = (): string[] => lines.filter((line) => line.includes("could not be made"));
    let ids = range(4);
    await until(async () => {
      await roundTrip(backend, ids);
      ids = ids.map((id) => id + 10);
      return way.attempts > 4;
    });
    expect(said().length).toBe(1);
    expect(said()[0]).toContain("MaxStartups");
  });

  it("a connection that is being made ends with close", async () => {
    const way = await road();
    way.answeredMax = 1;
    const backend = await open(through(way, { filesPerConnectionMax: 1, connectTimeoutMs: NEVER_MS }));
    await roundTrip(backend, range(4));
    expect(way.standing).toBeGreaterThan(1);
    await backend.close();
    await until(() => way.standing === 0);
  });

  it("an open that was called off leaves no connection behind", async () => {
    const silent = createServer((socket) => socket.on("error", () => {}).resume());
    const port = await listen(silent);
    atEnd.push(() => silent.close());
    const controller = new AbortController();
    const backend = make(configOf(server(), root, { port, connectTimeoutMs: NEVER_MS }));
    const opening = backend.open({ ...context, signal: controller.signal });
    const connections = (): Promise<number> => new Promise((done) => silent.getConnections((_, count) => done(count)));
    await until(async () => (await connections()) === 1);
    controller.abort();
    await expect(opening).rejects.toMatchObject({ code: "ABORTED" });
    await backend.close();
    await until(async () => (await connections()) === 0);
  });

  it("a frozen host: every call ends by its deadline, what waits is bounded, and nothing is left when it is back", async () => {
    const way = await road();
    const backend = await open(through(way, { connectionsMax: 1 }));
    const ids = range(40);
    await roundTrip(backend, ids);
    server().signalSessions("SIGSTOP");
    try {
      const limit = { deadlineMs: 30 };
      const lookups = range(20).map((i) => backend.lookup(keysOf(range(500).map((n) => 500 * i + n)), limit));
      const into = createMemoryRegion(ids.length, BLOCK_BYTES);
      const loads = range(5).map(() => backend.load(batchOf(ids, into), limit));
      const removal = backend.remove(keysOf([1, 2]), limit);
      const stores = range(3).map((i) => backend.store(batchOf([900 + i], filled([i], BLOCK_BYTES)), limit));
      const asked = await Promise.allSettled(lookups);
      expect(new Set(asked.map((each) => (each.status === "rejected" ? codeOf(each.reason) : "in time")))).toEqual(
        new Set(["DEADLINE"]),
      );
      for (const result of await Promise.all([...loads, ...stores, removal])) {
        expect(new Set(result.outcomes)).toEqual(new Set([FAILED]));
        expect(outcomeCode(result, 0)).toBe("DEADLINE");
      }
      const scan = backend.scan({ signal: AbortSignal.timeout(30) });
      await expect(scan.next()).rejects.toMatchObject({ code: "DEADLINE" });
      expect(backend.requests).toBeLessThanOrEqual(256 + 32 * 16 + 16);
    } finally {
      server().signalSessions("SIGCONT");
    }
    await until(() => backend.requests === 0);
    await roundTrip(
      backend,
      range(3).map((i) => 2000 + i),
    );
  });

  it("one frozen connection of several does not take the others' work", async () => {
    const way = await road();
    const backend = await open(through(way, { connectionsMax: 2, filesPerConnectionMax: 1, keepaliveMs: 1_000_000 }));
    let ids = range(8);
    await until(async () => {
      await roundTrip(backend, ids);
      ids = ids.map((id) => id + 10);
      return backend.connections === 2;
    });
    way.freeze(0);
    const limit = { deadlineMs: 2000 };
    const answers = [];
    for (let i = 0; i < 6; i++) answers.push(await backend.lookup(keysOf([1, 2, 3]), limit).then(() => true, codeOf));
    expect(answers.filter((each) => each !== true).length).toBeLessThanOrEqual(1);
  });

  it("a host that stops answering is given up by its missing signs of life, and found again", async () => {
    const way = await road();
    const backend = await open(through(way, { connectionsMax: 1, keepaliveMs: 20, reconnectMsMin: 0 }));
    way.freeze(0);
    expect(await backend.lookup(keysOf([1])).then(() => "answered", codeOf)).toBe("UNAVAILABLE");
    await roundTrip(backend, [1]);
  });
});

describeSshd(
  "sftp over a server that changes its keys every mebibyte",
  (server) => {
    useRoot();

    it("moves every byte over the change", async () => {
      const backend = await open(configOf(server(), root));
      await roundTrip(backend, range(30));
    });
  },
  { settings: ["RekeyLimit 1M"] },
);

describeSshd(
  "sftp over a server that lets in one connection at a time",
  (server) => {
    useRoot();

    it("is as good as one that has none to spare", async () => {
      const backend = await open(configOf(server(), root, { filesPerConnectionMax: 2, reconnectMsMin: 0 }));
      await roundTrip(backend, range(40));
      expect(backend.connections).toBeGreaterThan(0);
    });
  },
  { settings: ["MaxStartups 1", "MaxSessions 1"] },
);

describeSshd(
  "sftp over a server that opens no sessions",
  (server) => {
    useRoot();

    it("is UNSUPPORTED, and the setting is named", async () => {
      const error = await open(configOf(server(), root)).catch((thrown: KvferryError) => thrown);
      expect(error).toMatchObject({ code: "UNSUPPORTED" });
      expect((error as KvferryError).message).toContain("MaxSessions");
    });
  },
  { settings: ["MaxSessions 0"] },
);

describeSshd("sftp over a crooked server (a stand-in)", (server) => {
  useRoot();

  async function crooked(make: () => Crookedness): Promise<CrookedServer> {
    const made = await startCrookedServer(server(), make);
    atEnd.push(() => made.close());
    return made;
  }

  it("short reads in any order make the same bytes", async () => {
    let reads = 0;
    const { config } = await crooked(() => {
      const held: Buffer[] = [];
      return {
        request(packet) {
          if (packet[4] !== READ) return packet;
          const shorter = Buffer.from(packet);
          const at = shorter.length - 4;
          shorter.writeUInt32BE(Math.min(shorter.readUInt32BE(at), 1 + ((reads++ * 7919) % 50_000)), at);
          return shorter;
        },
        replies(packet, send) {
          if (packet[4] !== DATA) return send(packet);
          held.push(packet);
          if (held.length > 1) return;
          // what comes in this turn of the loop and the next goes out backwards
          setTimeout(() => {
            for (const each of held.splice(0).reverse()) send(each);
          }, 2);
        },
      };
    });
    const backend = await open(config(root));
    await roundTrip(backend, range(10));
    expect(reads).toBeGreaterThan(100);
  });

  it("what is no SFTP ends that connection alone, once, and is told by its name", async () => {
    let spoilt = 0;
    const { config } = await crooked(() => ({
      replies(packet, send) {
        if (packet[4] === DATA && spoilt++ === 0) send(Buffer.from("\xff\xff\xff\xff what?", "latin1"));
        else send(packet);
      },
    }));
    const { logger, lines } = recordingLogger();
    const backend = await open(config(root, { connectionsMax: 1 }), { logger });
    const region = filled([1], BLOCK_BYTES);
    await backend.store(batchOf([1], region));
    const into = createMemoryRegion(1, BLOCK_BYTES);
    const result = await backend.load(batchOf([1], into));
    expect([result.outcomes[0], outcomeCode(result, 0)]).toEqual([FAILED, "PROTOCOL"]);
    expect([...(await backend.load(batchOf([1], into))).outcomes]).toEqual([LOADED]);
    expect(sameBytes(into.bytes, region.bytes)).toBe(true);
    const lost = lines.find((line) => line.includes("connection was lost"));
    expect(lost).toContain("no SFTP");
  });

  it("a close that fails makes no block", async () => {
    const closing = new Set<number>();
    let failing = true;
    const { config } = await crooked(() => ({
      request(packet) {
        if (failing && packet[4] === CLOSE) closing.add(packet.readUInt32BE(5));
        return packet;
      },
      replies(packet, send) {
        if (closing.delete(packet.readUInt32BE(5))) packet.writeUInt32BE(FAILURE, 9);
        send(packet);
      },
    }));
    await (await open(configOf(server(), root))).close(); // makes the folders and the description
    const backend = await open(config(root, { connectionsMax: 1 }));
    const batch = batchOf([1], filled([1], BLOCK_BYTES));
    const result = await backend.store(batch);
    expect([result.outcomes[0], outcomeCode(result, 0)]).toEqual([FAILED, "IO"]);
    expect([...(await backend.lookup(keysOf([1])))]).toEqual([LookupState.MISS]);
    failing = false;
    await roundTrip(backend, [1]);
  });
});
