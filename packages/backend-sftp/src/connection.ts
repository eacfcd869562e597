import { readFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { KvferryError } from "@kvferry/core";
import ssh2, { type ConnectConfig } from "ssh2"; // Node finds no names in it
import type { ResolvedSftpConfig } from "./config.js";
import { toConnectionError } from "./errors.js";
import { fingerprintOf, type KnownHost, keyTypeOf, knownHosts } from "./host-keys.js";
import type { PacketPool } from "./packets.js";
import { connectReading } from "./reading.js";
import { SftpSession } from "./session.js";

const KEEPALIVES_MISSED_MAX = 3;

/** An SSH connection with one SFTP session over it. */
export interface SftpConnection {
  readonly session: SftpSession;
  /** Ends at once; what is under way fails. */
  destroy(): void;
}

/** Connects, checks the host's key, logs in, begins SFTP. `onEnd` is called once when a connection that stood has ended.
 * `signal` ends it, whether it stands or not.
 * @throws KvferryError: CONFIG_INVALID for a host key that is not the expected one or a private key that cannot be read, PERMISSION
 * for a key that the host does not take, UNAVAILABLE for a host that cannot be reached. */
export async function connectSftp(
  config: ResolvedSftpConfig,
  packets: PacketPool,
  onEnd: (error: KvferryError) => void,
  signal?: AbortSignal,
): Promise<SftpConnection> {
  const { host, port } = config;
  const identity = await readIdentity(config);
  const expected = config.hostKeyCheck ? await expectedHostKeys(config) : undefined;
  if (signal?.aborted) throw closed(config);
  const { socket, lend } = connectReading(host, port);
  const client = new ssh2.Client();
  const destroy = (): void => {
    client.destroy();
    socket.destroy();
  };
  return new Promise((resolve, reject) => {
    let session: SftpSession | undefined;
    let standing = false;
    let over = false;
    const end = (thrown: unknown): void => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      destroy();
      const error = session?.ended ?? toConnectionError(thrown, config);
      session?.end(error);
      if (standing) onEnd(error);
      else reject(error);
    };
    const onAbort = (): void => end(closed(config));
    signal?.addEventListener("abort", onAbort, { once: true });
    const lost = (): void => end(Object.assign(new Error("it was closed"), { code: "ECONNRESET" }));
    const timer = setTimeout(
      () => end(Object.assign(new Error(), { level: "client-timeout" })),
      config.connectTimeoutMs,
    );
    client.on("error", end).on("close", lost).on("end", lost);
    // ssh2 decrypts such packets into memory of its own as they come; of others it may keep what it was given until more has come
    client.on("handshake", ({ sc }) => lend(/^aes\d+-gcm(@|$)/.test(sc.cipher)));
    client.on("ready", () => {
      const batch = corker(socket);
      // what waited for the server's leave to go on is written while its answer is read
      socket.prependListener("data", batch);
      client.subsys("sftp", (refused, channel) => {
        if (refused) {
          end(noSession(refused, config));
          return;
        }
        channel.on("error", end).on("close", lost).on("end", lost);
        channel.stderr.resume(); // what a server says there would be kept, and take the window from replies
        session = new SftpSession(channel, packets, batch, end);
        session.begin(config.requestBytesMax).then(() => {
          if (over) return;
          standing = true;
          clearTimeout(timer);
          resolve({ session: session as SftpSession, destroy: () => end(closed(config)) });
        }, end);
      });
    });
    const hostVerifier = (key: Buffer): boolean => {
      const error = expected === undefined ? undefined : judgeHostKey(key, expected, config);
      if (error !== undefined) end(error);
      return error === undefined;
    };
    try {
      client.connect({ sock: socket, ...settingsOf(config), ...identity, ...preferredTypes(expected), hostVerifier });
    } catch (thrown) {
      end(thrown); // of settings that it does not take
    }
  });
}

function settingsOf({ user, connectTimeoutMs, keepaliveMs }: ResolvedSftpConfig): ConnectConfig {
  return {
    ...{ username: user, readyTimeout: connectTimeoutMs },
    ...{ keepaliveInterval: keepaliveMs, keepaliveCountMax: KEEPALIVES_MISSED_MAX },
  };
}

/** Puts what is written within one turn into one system call. */
function corker(socket: Socket): () => void {
  let corked = false;
  return () => {
    if (corked) return;
    corked = true;
    socket.cork();
    process.nextTick(() => {
      corked = false;
      socket.uncork();
    });
  };
}

type Identity = Pick<ConnectConfig, "privateKey" | "passphrase" | "agent">;

/** The key is read anew for every connection and kept nowhere. */
async function readIdentity({ privateKeyFile, passphraseEnv, agent }: ResolvedSftpConfig): Promise<Identity> {
  const fromAgent = agent === undefined ? {} : { agent };
  if (privateKeyFile === undefined) return fromAgent;
  const privateKey = await readFile(privateKeyFile).catch((thrown: NodeJS.ErrnoException) => {
    throw wrong("privateKeyFile", `${privateKeyFile} cannot be read (${thrown.code})`);
  });
  const passphrase = passphraseEnv === undefined ? undefined : process.env[passphraseEnv];
  if (passphraseEnv !== undefined && passphrase === undefined) {
    throw wrong("passphraseEnv", `names ${passphraseEnv}, which the environment does not have`);
  }
  const parsed = ssh2.utils.parseKey(privateKey, passphrase);
  if (parsed instanceof Error) {
    // what the parser says may depend on the key's bytes: it is read, and not passed on
    if (/no passphrase given/i.test(parsed.message)) {
      throw wrong("passphraseEnv", `is needed: the key in ${privateKeyFile} has a passphrase`);
    }
    if (passphrase !== undefined) throw wrong("passphraseEnv", `holds no passphrase that opens ${privateKeyFile}`);
    throw wrong("privateKeyFile", `${privateKeyFile} is no private key of a known kind`);
  }
  if (![parsed].flat().every((key) => key.isPrivateKey())) {
    throw wrong("privateKeyFile", `${privateKeyFile} holds a public key; the private one is needed`);
  }
  return { privateKey, ...(passphrase !== undefined && { passphrase }), ...fromAgent };
}

/** Of each type of key: by what ssh2 can check it. It refuses to connect at all where it is given anything else. */
const ALGORITHMS: Readonly<Record<string, readonly string[]>> = {
  "ssh-ed25519": ["ssh-ed25519"],
  "ecdsa-sha2-nistp256": ["ecdsa-sha2-nistp256"],
  "ecdsa-sha2-nistp384": ["ecdsa-sha2-nistp384"],
  "ecdsa-sha2-nistp521": ["ecdsa-sha2-nistp521"],
  "ssh-rsa": ["rsa-sha2-512", "rsa-sha2-256"],
};

interface ExpectedHostKeys {
  readonly fingerprints: readonly string[];
  readonly known: readonly KnownHost[];
}

async function expectedHostKeys(config: ResolvedSftpConfig): Promise<ExpectedHostKeys> {
  const { hostKeys: fingerprints, knownHostsFile: path, host, port } = config;
  if (path === undefined) return { fingerprints, known: [] };
  const text = await readFile(path, "utf8").catch((thrown: NodeJS.ErrnoException) => {
    throw wrong("knownHostsFile", `${path} cannot be read (${thrown.code})`);
  });
  return { fingerprints, known: knownHosts(text, host, port) };
}

/** A host has keys of several types and shows one: that of a type that we know. */
function preferredTypes(expected: ExpectedHostKeys | undefined): Pick<ConnectConfig, "algorithms"> {
  const { fingerprints = [], known = [] } = expected ?? {};
  const types = new Set(known.filter(({ revoked }) => !revoked).map(({ type }) => type));
  const algorithms = [...types].flatMap((type) => ALGORITHMS[type] ?? []);
  if (fingerprints.length > 0 || algorithms.length === 0) return {};
  return {
    algorithms: { serverHostKey: algorithms as NonNullable<ConnectConfig["algorithms"]>["serverHostKey"] & {} },
  };
}

function judgeHostKey(
  key: Buffer,
  { fingerprints, known }: ExpectedHostKeys,
  { host, port, knownHostsFile }: ResolvedSftpConfig,
): KvferryError | undefined {
  const seen = fingerprintOf(key);
  const type = keyTypeOf(key);
  const field = fingerprints.length > 0 ? "hostKey" : "knownHostsFile";
  const expected = [...fingerprints, ...known.filter(({ revoked }) => !revoked).map(({ fingerprint }) => fingerprint)];
  const isRevoked = known.some(({ revoked, fingerprint }) => revoked && fingerprint === seen);
  if (expected.includes(seen) && !isRevoked) return undefined;
  const context = { field, host, port, expected, seen };
  const place = `sftp: ${host}:${port}: the host shows the ${type} key ${seen}`;
  const words = isRevoked
    ? `which ${knownHostsFile} has as revoked`
    : expected.length === 0
      ? `and ${knownHostsFile} has no key of this host: compare it with the host's own, then add it`
      : `but ${expected.join(" or ")} was expected: either its key was changed, or somebody sits between; nothing was sent`;
  return new KvferryError("CONFIG_INVALID", `${place}, ${words}`, { operation: "connect", context });
}

function noSession(refused: Error, { host, port }: ResolvedSftpConfig): KvferryError {
  const words = /subsystem/i.test(refused.message)
    ? "the host lets us in, but has no SFTP: sshd needs the line 'Subsystem sftp internal-sftp'"
    : "the host lets us in, but opens no session: check MaxSessions of sshd, which must be 1 or more";
  return new KvferryError("UNSUPPORTED", `sftp: ${host}:${port}: ${words}`, {
    operation: "connect",
    context: { host, port },
  });
}

function closed({ host, port }: ResolvedSftpConfig): KvferryError {
  return new KvferryError("CLOSED", `sftp: ${host}:${port}: the connection was closed by this side`);
}

function wrong(field: string, words: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `sftp backend: '${field}' ${words}`, {
    operation: "connect",
    context: { field },
  });
}
