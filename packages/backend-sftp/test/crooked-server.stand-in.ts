import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import ssh2, { type ServerChannel } from "ssh2";
import { type Sshd, sftpServerBinary } from "../../../scripts/lib/sshd.mjs";
import type { SftpConfig } from "../src/index.js";
import { configOf } from "./server.js";

/** What becomes of the packets of one session on their way; whole ones, with their length before them. */
export interface Crookedness {
  request?(packet: Buffer): Buffer;
  replies?(packet: Buffer, send: (packet: Buffer) => void): void;
}

export interface CrookedServer {
  readonly config: (root: string, more?: Partial<SftpConfig>) => SftpConfig;
  close(): void;
}

/** A stand-in for servers that keep to the letter of SFTP, or not even to that: ssh2's own server end lets everybody in; OpenSSH's sftp-server does the
 * work, and packets between the two go through `crooked`, made anew for each session. */
export async function startCrookedServer(sshd: Sshd, crooked: () => Crookedness): Promise<CrookedServer> {
  const clients = new Set<{ end(): void }>();
  const server = new ssh2.Server({ hostKeys: [readFileSync(sshd.hostKeyFile)] }, (client) => {
    clients.add(client);
    client.on("error", () => {}).on("close", () => clients.delete(client));
    client.on("authentication", (login) => login.accept());
    client.on("session", (accept) => {
      accept().on("subsystem", (begin) => serve(begin(), crooked()));
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address() as AddressInfo;
  return {
    config: (root, more = {}) => configOf({ ...sshd, port }, root, more),
    close() {
      for (const client of clients) client.end();
      server.close();
    },
  };
}

function serve(channel: ServerChannel, { request = (packet) => packet, replies }: Crookedness): void {
  const worker = spawn(sftpServerBinary() as string, [], { stdio: ["pipe", "pipe", "ignore"] });
  worker.stdin.on("error", () => {});
  channel.on("error", () => {}).on("close", () => worker.kill("SIGKILL"));
  channel.on(
    "data",
    packets((packet) => worker.stdin.write(request(packet))),
  );
  const send = (packet: Buffer): void => {
    if (channel.writable) channel.write(packet);
  };
  worker.stdout.on(
    "data",
    packets((packet) => (replies === undefined ? send(packet) : replies(packet, send))),
  );
}

/** Puts a stream's pieces together to packets. */
function packets(take: (packet: Buffer) => void): (piece: Buffer) => void {
  let rest = Buffer.alloc(0);
  return (piece) => {
    rest = Buffer.concat([rest, piece]);
    while (rest.length >= 4 && rest.length >= 4 + rest.readUInt32BE(0)) {
      const end = 4 + rest.readUInt32BE(0);
      take(rest.subarray(0, end));
      rest = rest.subarray(end);
    }
  };
}
