// A real OpenSSH server for tests and benchmarks: on a free port of the loopback interface, with keys and a folder of its own.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { runToEnd, start } from "./processes.mjs";

const BINARIES = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd", "/opt/homebrew/sbin/sshd"];
const START_MS_MAX = 20_000;

/** Where OpenSSH's server is; undefined where it is not installed. */
export function sshdBinary() {
  return BINARIES.find(existsSync);
}

/**
 * Starts a server that lets the user of this process in with the key `keyFile`.
 *
 * @param {{ subsystem?: string, parent?: string }} options subsystem: what it runs for SFTP; "" for none.
 *   parent: the folder in which its own is made
 * @returns the server; its `stop()` also removes the folder.
 */
export async function startSshd({ subsystem = "internal-sftp", parent = tmpdir() } = {}) {
  const binary = sshdBinary();
  if (binary === undefined) throw new Error("sshd is not installed: node scripts/setup-system.mjs");
  const folder = mkdtempSync(join(parent, "kvferry-sshd-"));
  const [hostKeyFile, keyFile] = [join(folder, "host"), join(folder, "user")];
  for (const file of [hostKeyFile, keyFile]) await makeKey(file);
  // as root it separates privileges, and wants an empty folder to lock itself in
  if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  const port = await freePort();
  const lines = [
    ...[`Port ${port}`, "ListenAddress 127.0.0.1", `HostKey ${hostKeyFile}`, `AuthorizedKeysFile ${keyFile}.pub`],
    ...[
      "PidFile none",
      "StrictModes no",
      "UsePAM no",
      "PasswordAuthentication no",
      "PermitRootLogin prohibit-password",
    ],
    ...["MaxStartups 200", "LogLevel ERROR", ...(subsystem === "" ? [] : [`Subsystem sftp ${subsystem}`])],
  ];
  writeFileSync(join(folder, "config"), `${lines.join("\n")}\n`);
  const server = start(binary, ["-D", "-e", "-f", join(folder, "config")], { stdout: "ignore" });
  const signalSessions = (signal = "SIGKILL") => {
    for (const pid of descendants(server.child.pid)) send(pid, signal);
  };
  const stop = async () => {
    signalSessions();
    send(server.child.pid, "SIGKILL");
    await server.ended;
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await listening(port, server);
  } catch (error) {
    await stop();
    throw error;
  }
  const printed = await runToEnd("ssh-keygen", ["-l", "-f", `${hostKeyFile}.pub`]);
  return {
    ...{ folder, port, keyFile, hostKeyFile, signalSessions, stop },
    host: "127.0.0.1",
    user: userInfo().username,
    hostKey: printed.split(" ")[1],
    hostKeyLine: readFileSync(`${hostKeyFile}.pub`, "utf8").trim(),
  };
}

/** An Ed25519 key pair in `file` and `file`.pub. */
export async function makeKey(file, passphrase = "") {
  await runToEnd("ssh-keygen", ["-q", "-t", "ed25519", "-N", passphrase, "-C", "kvferry-test", "-f", file]);
}

/** The processes below one: what serves a connection is a child of its own. */
function descendants(pid) {
  const parents = new Map();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // it has just ended
    }
  }
  const isBelow = (each) => {
    for (let at = parents.get(each); at !== undefined && at > 1; at = parents.get(at)) if (at === pid) return true;
    return false;
  };
  return [...parents.keys()].filter(isBelow);
}

function send(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch {
    // it has ended already
  }
}

function freePort() {
  return new Promise((done, failed) => {
    const server = createServer();
    server.on("error", failed);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

async function listening(port, server) {
  const until = performance.now() + START_MS_MAX;
  let over = false;
  server.ended.then(() => {
    over = true;
  });
  while (!(await answers(port))) {
    if (over || performance.now() > until) throw new Error(`sshd did not begin to listen\n${server.errors()}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

function answers(port) {
  return new Promise((done) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("data", (data) => {
      socket.destroy();
      done(data.toString("latin1").startsWith("SSH-"));
    });
    socket.on("error", () => done(false));
    socket.on("close", () => done(false));
  });
}
