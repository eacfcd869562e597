// Real S3 servers of two makes, for tests and benchmarks: built from Go's module proxy at a pinned version, kept in .cache/.
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statfsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort, untilListening } from "./listening.mjs";
import { killGroup, runToEnd, start } from "./processes.mjs";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const folder = join(root, ".cache/s3-servers");
const REGION = "eu-test-1";
const START_MS_MAX = 30_000;
const MEMORY_BYTES_MIN = 2 * 2 ** 30;

const SERVERS = {
  versitygw: {
    version: "v1.8.0",
    module: "github.com/versity/versitygw/cmd/versitygw",
    // a sidecar for what would be extended attributes: not every temporary folder has them
    args: (address, data) => [
      ...["--port", address, "--region", REGION, "--iam-dir", join(data, "iam"), "--quiet", "--keep-alive"],
      ...["posix", "--sidecar", join(data, "sidecar"), join(data, "objects")],
    ],
    folders: ["iam", "sidecar", "objects"],
    env: ({ accessKeyId, secretAccessKey }) => ({ ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey }),
  },
  minio: {
    version: "v0.0.0-20260212201848-7aac2a2c5b7c", // its releases have no versions that Go knows
    module: "github.com/minio/minio",
    args: (address, data) => ["server", "--quiet", "--address", address, join(data, "objects")],
    folders: ["objects"],
    env: ({ accessKeyId, secretAccessKey }) => ({
      ...{ MINIO_ROOT_USER: accessKeyId, MINIO_ROOT_PASSWORD: secretAccessKey },
      ...{ MINIO_SITE_REGION: REGION, MINIO_BROWSER: "off", MINIO_UPDATE: "off" },
    }),
  },
};

export const S3_SERVER_NAMES = Object.keys(SERVERS);

/** Where the program of a server lies, or undefined while it has not been built. */
export function s3ServerBinary(name) {
  const path = join(folder, `${name}-${SERVERS[name].version}`);
  return existsSync(path) ? path : undefined;
}

/**
 * Builds the servers that are not there.
 *
 * @param {{ log?: (line: string) => void }} options
 * @throws {Error} with what the Go toolchain has said
 */
export async function buildS3Servers({ log = console.log } = {}) {
  for (const name of S3_SERVER_NAMES) {
    if (s3ServerBinary(name) === undefined) await build(name, log);
  }
}

async function build(name, log) {
  const { module, version } = SERVERS[name];
  const begin = performance.now();
  log(`... ${name} ${version} (go install: some two minutes the first time)`);
  mkdirSync(folder, { recursive: true });
  const work = mkdtempSync(join(folder, "tmp-"));
  try {
    const env = { GOBIN: work, GOFLAGS: "-mod=mod -buildvcs=false", CGO_ENABLED: "0" };
    await runToEnd("go", ["install", "-trimpath", "-ldflags=-s", `${module}@${version}`], { cwd: work, env });
    renameSync(join(work, name), join(folder, `${name}-${version}`));
    for (const old of readdirSync(folder)) {
      if (old.startsWith(`${name}-`) && old !== `${name}-${version}`) rmSync(join(folder, old));
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  log(`ok  ${name} (${((performance.now() - begin) / 1000).toFixed(1)} s)`);
}

/**
 * Starts a server on a free port of the loopback interface, with a data folder and credentials of its own.
 *
 * @param {string} name one of S3_SERVER_NAMES
 * @param {{ parent?: string }} options the folder in which its data folder is made; default: in memory, where there is room
 * @returns the server; its `stop()` also removes the data. `pause()` and `resume()` freeze and thaw it.
 */
export async function startS3Server(name, { parent = scratchFolder() } = {}) {
  const binary = s3ServerBinary(name);
  if (binary === undefined) throw new Error(`${name} is not built: node scripts/setup-system.mjs`);
  const { args, env, folders } = SERVERS[name];
  const data = mkdtempSync(join(parent, `kvferry-${name}-`));
  for (const each of folders) mkdirSync(join(data, each));
  const credentials = {
    accessKeyId: `root${randomBytes(6).toString("hex")}`,
    secretAccessKey: randomBytes(20).toString("hex"),
  };
  const port = await freePort();
  const server = start(binary, args(`127.0.0.1:${port}`, data), { cwd: data, env: env(credentials), stdout: "ignore" });
  const stop = async () => {
    killGroup(server.child);
    await server.ended;
    await rm(data, { recursive: true, force: true });
  };
  try {
    await untilListening(() => answers(port), server, { name: "the server", msMax: START_MS_MAX });
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    ...{ name, binary, data, port, credentials, stop },
    region: REGION,
    endpoint: `http://127.0.0.1:${port}`,
    pause: () => killGroup(server.child, "SIGSTOP"),
    resume: () => killGroup(server.child, "SIGCONT"),
  };
}

/** Thousands of small files are made and removed: in memory, where there is enough of it. */
function scratchFolder() {
  const memory = "/dev/shm";
  if (!existsSync(memory)) return tmpdir();
  const { bavail, bsize } = statfsSync(memory);
  return bavail * bsize >= MEMORY_BYTES_MIN ? memory : tmpdir();
}

/** Whether an HTTP server answers: a port that is open need not have one behind it yet. */
function answers(port) {
  return new Promise((done) => {
    const socket = connect(port, "127.0.0.1");
    socket.on("connect", () => socket.write("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    socket.on("data", (data) => {
      socket.destroy();
      done(!/^HTTP\/1\.1 50\d/.test(data.toString("latin1"))); // MinIO says 503 until it is ready
    });
    socket.on("error", () => done(false));
    socket.on("close", () => done(false));
  });
}
