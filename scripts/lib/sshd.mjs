// A real OpenSSH server for tests and benchmarks: on a free port of the loopback interface, with keys and a folder of its own.
import { spawn, spawnSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { descendants, send } from "./descendants.mjs";
import { freePort, untilListening } from "./listening.mjs";
import { runToEnd } from "./processes.mjs";

const BINARIES = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd", "/opt/homebrew/sbin/sshd"];
const SFTP_SERVERS = ["/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/libexec"].map(
  (folder) => `${folder}/sftp-server`,
);
const KEEPER = fileURLToPath(new URL("./keeper.mjs", import.meta.url));
const START_MS_MAX = 20_000;

/** The program that serves SFTP over its standard input and output, where sshd does not do it itself. */
export function sftpServerBinary() {
  return SFTP_SERVERS.find(existsSync);
}

/** Where OpenSSH's server is; undefined where it is not installed. */
export function sshdBinary() {
  return BINARIES.find(existsSync);
}

/**
 * Starts a server that lets the user of this process in with the key `keyFile`.
 *
 * @param {{ subsystem?: string, parent?: string, settings?: readonly string[] }} options subsystem: what it runs for SFTP; "" for none.
 *   parent: the folder in which its own is made; settings: lines of sshd_config that go before the others, and so win
 * @returns the server; its `stop()` also removes the folder, and so does the end of this process, whatever ends it.
 */
export async function startSshd({ subsystem = "internal-sftp", parent = tmpdir(), settings = [] } = {}) {
  const binary = sshdBinary();
  if (binary === undefined) throw new Error("sshd is not installed: node scripts/setup-system.mjs");
  const folder = mkdtempSync(join(parent, "kvferry-sshd-"));
  const [hostKeyFile, keyFile] = [join(folder, "host"), join(folder, "user")];
  for (const file of [hostKeyFile, keyFile]) await makeKey(file);
  // as root it separates privileges, and wants an empty folder to lock itself in
  if (process.getuid?.() === 0) mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  const port = await freePort();
  const lines = [
    ...settings,
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
  const config = join(folder, "config");
  writeFileSync(config, `${lines.join("\n")}\n`);
  if (punishes(binary, config)) appendFileSync(config, "PerSourcePenalties no\n");
  const server = keep(folder, [binary, "-D", "-e", "-f", config]);
  const signalSessions = (signal = "SIGKILL") => {
    // one step below the keeper is the server, which goes on
    for (const pid of descendants(server.pid, 2)) send(pid, signal);
  };
  const { stop } = server;
  try {
    await untilListening(() => answers(port), server, { name: "sshd", msMax: START_MS_MAX });
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

/** Runs a command below a keeper. `ended` ends when both and the folder are gone. */
function keep(folder, command) {
  const child = spawn(process.execPath, [KEEPER, folder, ...command], {
    stdio: ["pipe", "ignore", "pipe"],
    detached: true, // a Ctrl-C ends this process, and that ends the keeper, which cleans up first
  });
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (data) => {
    errors = (errors + data).slice(-20_000);
  });
  child.stdin.on("error", () => {}); // it has ended already
  const ended = new Promise((done) => child.on("error", done).on("close", done));
  const stop = async () => {
    child.stdin.end();
    await ended;
  };
  return { pid: child.pid, ended, errors: () => errors, stop };
}

/** Whether this server shuts out for a while who fails to log in, as it does since OpenSSH 9.8: tests fail on purpose, all from one address. */
function punishes(binary, config) {
  return spawnSync(binary, ["-T", "-f", config], { encoding: "utf8" }).stdout.includes("persourcepenalties");
}

/** An Ed25519 key pair in `file` and `file`.pub. */
export async function makeKey(file, passphrase = "") {
  await runToEnd("ssh-keygen", ["-q", "-t", "ed25519", "-N", passphrase, "-C", "kvferry-test", "-f", file]);
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
