import { type Duplex, duplexPair } from "node:stream";
import { KvferryError } from "@kvferry/core";
import { afterEach, describe, expect, it } from "vitest";
import { PacketPool } from "../src/packets.js";
import { SftpSession } from "../src/session.js";

// What a server sends that no honest one does, byte by byte. Nothing of it may reach a slot, or leave a call without an end.

const HANDLE = Uint8Array.of(1);
/** Length, type, id, handle, position, bytes. */
const READ_PACKET_BYTES = 4 + 1 + 4 + (4 + 1) + 8 + 4;

describe("an SFTP session", () => {
  let ours: Duplex;
  let theirs: Duplex;
  let broken: KvferryError[];

  function connect(): SftpSession {
    [ours, theirs] = duplexPair();
    theirs.resume(); // requests
    broken = [];
    return new SftpSession(
      ours,
      new PacketPool(4096, 0),
      () => {},
      (error) => broken.push(error),
    );
  }

  async function begun(): Promise<SftpSession> {
    const session = connect();
    theirs.write(version(3));
    await session.begin(32_768);
    return session;
  }

  /** A read of 16 bytes, and what its reader has got. */
  function reading(session: SftpSession): { readonly got: number[]; readonly ended: Promise<unknown> } {
    const got: number[] = [];
    const ended = session
      .read(HANDLE, 0, 16, (bytes) => got.push(...bytes))
      .catch((thrown: KvferryError) => thrown.code);
    return { got, ended };
  }

  const send = async (...packets: Buffer[]): Promise<void> => {
    theirs.write(Buffer.concat(packets));
    for (let turn = 0; turn < 3; turn++) await new Promise((done) => setImmediate(done));
  };

  afterEach(() => ours.destroy());

  it("gives each reader its own bytes, in whatever order and pieces they come", async () => {
    const session = await begun();
    const [first, second] = [reading(session), reading(session)];
    const answers = Buffer.concat([data(1, [5, 6, 7]), data(0, [1, 2])]);
    for (const byte of answers) await send(Buffer.of(byte));
    expect([await first.ended, await second.ended]).toEqual([true, true]);
    expect([first.got, second.got]).toEqual([
      [1, 2],
      [5, 6, 7],
    ]);
  });

  it("sends the requests of one turn together, in their order", async () => {
    const session = await begun();
    const chunks: Buffer[] = [];
    theirs.on("data", (chunk: Buffer) => chunks.push(chunk));
    const asked = [16, 17, 18].map((bytes) => session.read(HANDLE, 0, bytes, () => {}).catch(() => {}));
    await send();
    expect(chunks).toHaveLength(1);
    const lengths = [0, 1, 2].map((i) =>
      (chunks[0] as Buffer).subarray((i + 1) * READ_PACKET_BYTES - 4).readUInt32BE(0),
    );
    expect(lengths).toEqual([16, 17, 18]);
    session.end(new KvferryError("UNAVAILABLE", "cut"));
    await Promise.all(asked);
  });

  it("lets nothing through to a reader that was told that the session has ended", async () => {
    const session = await begun();
    const { got, ended } = reading(session);
    const answer = data(0, [1, 2, 3, 4]);
    await send(answer.subarray(0, -2));
    expect(got).toEqual([1, 2]);
    session.end(new KvferryError("UNAVAILABLE", "cut"));
    expect(await ended).toBe("UNAVAILABLE");
    await send(answer.subarray(-2)); // what had arrived, but was not looked at yet
    expect(got).toEqual([1, 2]);
  });

  it.each([
    ["a reply to nothing", status(77, 0)],
    ["data that nobody has asked for", data(77, [1])],
    ["more data than was asked for", data(0, new Array(17).fill(1))],
    ["data of no bytes", data(0, [])],
    ["lengths that do not agree", data(0, [1, 2], 100)],
    ["a giant packet", Buffer.from([0xff, 0xff, 0xff, 0xff, 101])],
    ["a packet of nothing", Buffer.from([0, 0, 0, 0, 101])],
    ["a packet with a type alone", Buffer.from([0, 0, 0, 1, 101])],
    ["a second greeting", version(3)],
    ["words of people", Buffer.from("Welcome! Disk quota exceeded.\r\n")],
  ])("ends at %s: every call hears of it, and whoever owns the connection", async (_what, packet) => {
    const session = await begun();
    const { got, ended } = reading(session);
    await send(packet);
    expect(await ended).toBe("PROTOCOL");
    expect(broken.map(({ code }) => code)).toEqual(["PROTOCOL"]);
    await expect(session.stat("/")).rejects.toMatchObject({ code: "PROTOCOL" });
    await send(data(0, [1, 2, 3]));
    expect(got).toEqual([]);
  });

  it.each([2, 4, 6])("speaks version 3, and not %i", async (number) => {
    const session = connect();
    theirs.write(version(number));
    await expect(session.begin(32_768)).rejects.toMatchObject({ code: "UNSUPPORTED" });
  });

  it("an answer of another kind, or one that is cut off, is an error of its own call alone", async () => {
    const session = await begun();
    const wrong = expect(session.stat("/a")).rejects.toMatchObject({ code: "PROTOCOL" });
    const short = expect(session.statOpen(HANDLE)).rejects.toThrow(RangeError);
    await send(packet(102, u32(0), u32(1), Buffer.of(9)), packet(105, u32(1), u32(0xff)));
    await Promise.all([wrong, short]);
    const { got, ended } = reading(session);
    await send(data(2, [8]));
    expect([await ended, got]).toEqual([true, [8]]);
  });

  it("what a server says goes into no log with control characters", async () => {
    const session = await begun();
    const asked = session.stat("/a").catch((thrown: Error) => thrown.message);
    await send(status(0, 4, "no\u001b[2J\nlevel=fatal"));
    expect(await asked).toBe("no?[2J?level=fatal");
  });
});

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function packet(type: number, ...fields: Buffer[]): Buffer {
  const body = Buffer.concat([Buffer.of(type), ...fields]);
  return Buffer.concat([u32(body.length), body]);
}

function version(number: number): Buffer {
  return packet(2, u32(number));
}

function data(id: number, bytes: readonly number[], claimed: number = bytes.length): Buffer {
  return packet(103, u32(id), u32(claimed), Buffer.from(bytes));
}

function status(id: number, code: number, words = ""): Buffer {
  return packet(101, u32(id), u32(code), u32(Buffer.byteLength(words)), Buffer.from(words), u32(0));
}
