import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { appendFile, chmod, copyFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { type Clock, type KvferryError, LookupState, systemClock } from "@kvferry/core";
import { afterEach, beforeAll, beforeEach, expect, it } from "vitest";
import { makeKey, type Sshd } from "../../../scripts/lib/sshd.mjs";
import { KEY_BYTES, keysOf, namespaceOf, recordingLogger, textOf, until } from "../../backend-s3/test/fixtures.js";
import { SftpBackend, type SftpConfig } from "../src/index.js";
import { listen, Road } from "./road.js";
import { configOf, describeSshd } from "./server.js";
import { makeRoot } from "./storage.js";

// Who may connect to whom, and what is said when it does not come to that.

const PASSPHRASE = "correct horse battery staple";
const PASSPHRASE_ENV = "KVFERRY_TEST_SFTP_PASSPHRASE";
const context = { namespace: namespaceOf("login"), keyBytes: KEY_BYTES, blockBytes: 4096 };

describeSshd("sftp logins", (server) => {
  let root: string;
  let removeRoot: () => Promise<void>;
  let lockedKey: string;
  let strangeKey: string;
  const { logger, lines } = recordingLogger();
  const errors: KvferryError[] = [];

  const inFolder = (name: string): string => join(server().folder, name);

  /** Opens and closes a backend; what `open` said, if it failed. */
  async function attempt(config: SftpConfig): Promise<KvferryError | undefined> {
    const backend = new SftpBackend(config);
    const thrown = await backend.open({ ...context, logger }).then(
      () => undefined,
      (error: KvferryError) => error,
    );
    await backend.close();
    if (thrown !== undefined) errors.push(thrown);
    return thrown;
  }

  /** The usual configuration without one of its ways to tell the host or the user. */
  function without(field: "hostKey" | "privateKeyFile", more: Partial<SftpConfig>): SftpConfig {
    const { [field]: _, ...rest } = configOf(server(), root);
    return { ...rest, ...more } as SftpConfig;
  }

  beforeAll(async () => {
    [lockedKey, strangeKey] = [inFolder("locked"), inFolder("strange")];
    await makeKey(lockedKey, PASSPHRASE);
    await makeKey(strangeKey);
    await appendFile(`${server().keyFile}.pub`, readFileSync(`${lockedKey}.pub`)); // the server's authorized keys
  });

  beforeEach(async () => {
    ({ root, remove: removeRoot } = await makeRoot());
    delete process.env[PASSPHRASE_ENV];
  });

  afterEach(() => removeRoot());

  it("a host with another key is refused before anything is sent, with both keys named", async () => {
    const expected = `SHA256:${"A".repeat(43)}`;
    const error = await attempt(configOf(server(), root, { hostKey: expected }));
    expect(error).toMatchObject({ code: "CONFIG_INVALID", status: "permanent" });
    expect(error?.context).toMatchObject({ field: "hostKey", expected: [expected], seen: server().hostKey });
    expect(error?.message).toContain(expected);
    expect(error?.message).toContain(server().hostKey);
    expect(existsSync(root)).toBe(false);
  });

  it("one of several expected keys is enough", async () => {
    const hostKey = [`SHA256:${"A".repeat(43)}`, server().hostKey];
    expect(await attempt(configOf(server(), root, { hostKey }))).toBeUndefined();
  });

  it("takes the host's key from a known_hosts file, plain or hashed", async () => {
    const { port, hostKeyLine, hostKey } = server();
    const knownHostsFile = inFolder("known_hosts");
    const open = () => attempt(without("hostKey", { knownHostsFile }));
    await writeFile(knownHostsFile, `# mine\nother.example ${hostKeyLine}\n`);
    const unknown = await open();
    expect(unknown).toMatchObject({ code: "CONFIG_INVALID", context: { field: "knownHostsFile", seen: hostKey } });
    expect(unknown?.message).toContain("has no key of this host");
    await appendFile(knownHostsFile, `[127.0.0.1]:${port} ${hostKeyLine}\n`);
    expect(await open()).toBeUndefined();
    await hashNames(knownHostsFile);
    expect(readFileSync(knownHostsFile, "utf8")).not.toContain("127.0.0.1");
    expect(await open()).toBeUndefined();
    await appendFile(knownHostsFile, `@revoked * ${hostKeyLine}\n`);
    expect((await open())?.message).toContain("revoked");
    const strangeLine = readFileSync(`${strangeKey}.pub`, "utf8");
    await writeFile(knownHostsFile, `[127.0.0.1]:${port} ${strangeLine}`);
    expect(await open()).toMatchObject({ code: "CONFIG_INVALID", context: { seen: hostKey } });
    expect(await attempt(without("hostKey", { knownHostsFile: inFolder("none") }))).toMatchObject({
      ...{ code: "CONFIG_INVALID", context: { field: "knownHostsFile" } },
    });
  });

  it("lines of known_hosts with types that are not known here do no harm", async () => {
    const { port, hostKeyLine } = server();
    const knownHostsFile = inFolder("known_hosts_of_tomorrow");
    const names = `[127.0.0.1]:${port}`;
    const strange = `${names} sk-ssh-ed25519@openssh.com AAAA\n${names} ssh-of-tomorrow AAAA\n`;
    await writeFile(knownHostsFile, `${strange}${names} ${hostKeyLine}\n`);
    expect(await attempt(without("hostKey", { knownHostsFile }))).toBeUndefined();
    await writeFile(knownHostsFile, strange);
    expect(await attempt(without("hostKey", { knownHostsFile }))).toMatchObject({
      ...{ code: "CONFIG_INVALID", context: { field: "knownHostsFile", seen: server().hostKey } },
    });
  });

  it("a host of which nothing is known needs a decision, and the careless one is logged", async () => {
    expect(() => new SftpBackend(without("hostKey", {}))).toThrowError(/'hostKey' or 'knownHostsFile' is needed/);
    expect(await attempt(without("hostKey", { hostKeyCheck: false }))).toBeUndefined();
    expect(lines.some((line) => line.includes("the host's key is not checked"))).toBe(true);
  });

  it("a user's key that the host does not know is PERMISSION", async () => {
    const error = await attempt(configOf(server(), root, { privateKeyFile: strangeKey }));
    expect(error).toMatchObject({ code: "PERMISSION", status: "permanent", context: { field: "privateKeyFile" } });
  });

  it("a key file that is none is named", async () => {
    const none = await attempt(configOf(server(), root, { privateKeyFile: inFolder("none") }));
    expect(none).toMatchObject({ code: "CONFIG_INVALID", context: { field: "privateKeyFile" } });
    const theOther = await attempt(configOf(server(), root, { privateKeyFile: `${strangeKey}.pub` }));
    expect(theOther).toMatchObject({ code: "CONFIG_INVALID", context: { field: "privateKeyFile" } });
    expect(theOther?.message).toContain("public key");
    const broken = inFolder("broken");
    await writeFile(broken, readFileSync(strangeKey, "utf8").slice(0, 200));
    const error = await attempt(configOf(server(), root, { privateKeyFile: broken }));
    expect(error).toMatchObject({ code: "CONFIG_INVALID", context: { field: "privateKeyFile" } });
  });

  it("a passphrase comes from the environment", async () => {
    const locked = { privateKeyFile: lockedKey };
    const wrong = { code: "CONFIG_INVALID", context: { field: "passphraseEnv" } };
    expect(await attempt(configOf(server(), root, locked))).toMatchObject(wrong);
    const named = configOf(server(), root, { ...locked, passphraseEnv: PASSPHRASE_ENV });
    expect(await attempt(named)).toMatchObject(wrong);
    process.env[PASSPHRASE_ENV] = "another";
    expect(await attempt(named)).toMatchObject(wrong);
    process.env[PASSPHRASE_ENV] = PASSPHRASE;
    expect(await attempt(named)).toBeUndefined();
  });

  it("an agent may hold the key", async () => {
    const socket = inFolder("agent");
    const agent = spawn("ssh-agent", ["-D", "-a", socket], { stdio: "ignore" });
    const before = process.env.SSH_AUTH_SOCK;
    try {
      await until(() => existsSync(socket));
      const viaAgent = without("privateKeyFile", { agent: socket });
      expect(await attempt(viaAgent)).toMatchObject({ code: "PERMISSION" }); // it holds none yet
      await addToAgent(socket, server());
      expect(await attempt(viaAgent)).toBeUndefined();
      process.env.SSH_AUTH_SOCK = socket;
      expect(await attempt(without("privateKeyFile", { agent: true }))).toBeUndefined();
      delete process.env.SSH_AUTH_SOCK;
      expect(() => new SftpBackend(without("privateKeyFile", { agent: true }))).toThrowError(/SSH_AUTH_SOCK/);
    } finally {
      agent.kill("SIGKILL");
      if (before !== undefined) process.env.SSH_AUTH_SOCK = before;
    }
    expect(await attempt(without("privateKeyFile", { agent: inFolder("no-agent") }))).toMatchObject({
      ...{ code: "PERMISSION" },
    });
  });

  it("a host that is not there is UNAVAILABLE, and named", async () => {
    const refused = await attempt(configOf(server(), root, { port: 1 }));
    expect(refused).toMatchObject({ code: "UNAVAILABLE", status: "temporary", context: { field: "host", port: 1 } });
    const unknown = await attempt(configOf(server(), root, { host: "no-such-host.invalid" }));
    expect(unknown).toMatchObject({ code: "UNAVAILABLE", context: { host: "no-such-host.invalid" } });
    const silent = createServer();
    const port = await listen(silent);
    const timedOut = await attempt(configOf(server(), root, { port, connectTimeoutMs: 50 }));
    expect(timedOut).toMatchObject({ code: "UNAVAILABLE" });
    expect(timedOut?.message).toContain("does not answer in time");
    silent.close();
    const noSsh = createServer((socket) => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    expect(await attempt(configOf(server(), root, { port: await listen(noSsh) }))).toMatchObject({
      code: "UNAVAILABLE",
    });
    noSsh.close();
  });

  it("pauses between attempts to reach a host that is away, and finds it again", async () => {
    const road = new Road(server().port);
    await road.open();
    let nowMs = 1000;
    const clock: Clock = { nowMs: () => systemClock.nowMs(), monotonicMs: () => nowMs };
    const config = configOf(server(), root, { port: road.port, connectionsMax: 1 });
    const backend = new SftpBackend(config);
    await backend.open({ ...context, clock, logger });
    const lookup = () => backend.lookup(keysOf([1])).catch((thrown: KvferryError) => thrown.code);
    expect([...((await lookup()) as Uint8Array)]).toEqual([LookupState.MISS]);
    road.block();
    await until(() => backend.connections === 0);
    const before = road.attempts;
    expect(await lookup()).toBe("UNAVAILABLE");
    expect(road.attempts).toBe(before + 1);
    expect(await lookup()).toBe("UNAVAILABLE"); // at once, from memory
    expect(road.attempts).toBe(before + 1);
    nowMs += 10_000;
    expect(await lookup()).toBe("UNAVAILABLE");
    expect(road.attempts).toBe(before + 2);
    road.unblock();
    nowMs += 10_000;
    expect([...((await lookup()) as Uint8Array)]).toEqual([LookupState.MISS]);
    await backend.close();
    road.close();
  });

  it("neither keys nor passphrases are in any error or log line", () => {
    expect(errors.length).toBeGreaterThan(10);
    const said = [...lines, ...errors.map((error) => textOf(error))].join("\n");
    const secrets = [server().keyFile, lockedKey, strangeKey].flatMap((file) =>
      readFileSync(file, "utf8")
        .split("\n")
        .filter((line) => line.length >= 40 && !line.startsWith("-----"))
        // the first line of a key is the same in all keys of its kind
        .slice(1),
    );
    expect(secrets.length).toBeGreaterThan(6);
    for (const secret of [...secrets, PASSPHRASE]) expect(said).not.toContain(secret);
  });
});

describeSshd(
  "sftp on a host that has none",
  (server) => {
    it("is UNSUPPORTED, and sshd's setting is named", async () => {
      const backend = new SftpBackend(configOf(server(), "/srv/kv"));
      const error: KvferryError = await backend.open(context).then(
        () => expect.unreachable("open must fail"),
        (thrown: KvferryError) => thrown,
      );
      expect(error.code).toBe("UNSUPPORTED");
      expect(error.message).toContain("Subsystem sftp");
    });
  },
  { subsystem: "" },
);

function ended(command: string, args: readonly string[], env: Record<string, string> = {}): Promise<void> {
  return new Promise((done, failed) => {
    const child = spawn(command, args, { stdio: "ignore", env: { ...process.env, ...env } });
    child.on("error", failed);
    child.on("exit", (code) => (code === 0 ? done() : failed(new Error(`${command} ended with ${code}`))));
  });
}

function hashNames(file: string): Promise<void> {
  return ended("ssh-keygen", ["-H", "-f", file]);
}

async function addToAgent(socket: string, { keyFile, folder }: Sshd): Promise<void> {
  const copy = join(folder, "for-agent");
  await copyFile(keyFile, copy);
  await chmod(copy, 0o600);
  await ended("ssh-add", ["-q", copy], { SSH_AUTH_SOCK: socket });
}
