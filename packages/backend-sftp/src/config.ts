import { KvferryError } from "@kvferry/core";

/** What a user sets. Secrets are no settings: the key is a file or in an agent, its passphrase is in a variable of the environment. */
export interface SftpConfig {
  /** Name or address of the remote host. */
  readonly host: string;
  /** Default 22. */
  readonly port?: number;
  readonly user: string;
  /** Absolute path on the remote host of the folder that holds everything. Made if missing; its parent must be there. */
  readonly root: string;
  /** Path of a private key. This or `agent` is needed. */
  readonly privateKeyFile?: string;
  /** Name of the variable of the environment that holds the key's passphrase. */
  readonly passphraseEnv?: string;
  /** An SSH agent: the path of its socket, or true for that of SSH_AUTH_SOCK. */
  readonly agent?: string | true;
  /** Fingerprints of the host's key, any of which it may have: `SHA256:…`, as `ssh-keygen -lf` prints them. This or `knownHostsFile` is needed. */
  readonly hostKey?: string | readonly string[];
  /** Path of a known_hosts file, hashed names included. */
  readonly knownHostsFile?: string;
  /** False: any host key will do, and whoever sits between can read and change everything. Default true. */
  readonly hostKeyCheck?: boolean;
  /** Connections at once, at most; default 4. */
  readonly connectionsMax?: number;
  /** Files moved at once over one connection, at most; default 8. */
  readonly filesPerConnectionMax?: number;
  /** Requests of one file on their way at once, at most; default 8, which with `requestBytesMax` is all that a connection can have on its way. */
  readonly requestsPerFileMax?: number;
  /** Bytes that one request moves, at most; the server may allow less. Default 255 KiB, which is what OpenSSH allows. */
  readonly requestBytesMax?: number;
  /** Blocks under way and waiting, at most; a batch beyond it is refused with BUSY. Default 65,536. */
  readonly queueBlocksMax?: number;
  /** fsync every block before it gets its name; needs a server with fsync@openssh.com. Default false: a block torn by a power cut does not verify. */
  readonly fsync?: boolean;
  /** Ms that a connection may take to stand; default 20,000. */
  readonly connectTimeoutMs?: number;
  /** Ms between signs of life; three without an answer end the connection. Default 10,000. */
  readonly keepaliveMs?: number;
  /** Ms of pause after a connection that failed, doubled each time up to `reconnectMsMax`; default 100. */
  readonly reconnectMsMin?: number;
  /** Default 10,000. */
  readonly reconnectMsMax?: number;
  /** Ms that closing waits for what was abandoned, before it cuts the connections; default 5,000. */
  readonly closeTimeoutMs?: number;
  /** Ms after which unfinished files that other writers left behind are removed, at open; default an hour. */
  readonly tempLeftoverMs?: number;
  /** Damaged files kept for a look, the newest; default 64. */
  readonly quarantineFilesMax?: number;
}

type Optional = "privateKeyFile" | "passphraseEnv" | "knownHostsFile";

/** A configuration with everything filled in. */
export type ResolvedSftpConfig = Required<Omit<SftpConfig, Optional | "hostKey" | "agent">> &
  Pick<SftpConfig, Optional> & { readonly hostKeys: readonly string[]; readonly agent?: string };

const DEFAULTS = {
  port: 22,
  connectionsMax: 4,
  filesPerConnectionMax: 8,
  requestsPerFileMax: 8,
  requestBytesMax: 261_120,
  queueBlocksMax: 65_536,
  connectTimeoutMs: 20_000,
  keepaliveMs: 10_000,
  reconnectMsMin: 100,
  reconnectMsMax: 10_000,
  closeTimeoutMs: 5000,
  tempLeftoverMs: 3_600_000,
  quarantineFilesMax: 64,
};
type NumberField = keyof typeof DEFAULTS;
const RANGES: Readonly<Partial<Record<NumberField, readonly [min: number, max: number]>>> = {
  port: [1, 65_535],
  requestBytesMax: [4096, 261_120],
  keepaliveMs: [0, 2 ** 31 - 1],
  reconnectMsMin: [0, 2 ** 31 - 1],
  closeTimeoutMs: [0, 2 ** 31 - 1],
  tempLeftoverMs: [0, Number.MAX_SAFE_INTEGER],
  quarantineFilesMax: [0, Number.MAX_SAFE_INTEGER],
};
const OTHER_FIELDS = ["host", "user", "root", "privateKeyFile", "passphraseEnv", "agent", "hostKey", "knownHostsFile"];
const FLAGS = ["hostKeyCheck", "fsync"] as const;
const SECRET_FIELDS = ["password", "passphrase", "privateKey"];

/** Fills in defaults.
 * @throws KvferryError CONFIG_INVALID with `context.field`. */
export function resolveConfig(config: SftpConfig): ResolvedSftpConfig {
  refuseUnknown(config);
  const { host, user, root } = config;
  if (!isText(host) || /[\s/@]/.test(host)) throw invalid("host", "must be the name or address of a host");
  if (!isText(user)) throw invalid("user", "must be the name to log in with");
  if (!isText(root) || !/^\/(?!.*(\/\/|\/\.{1,2}(\/|$)|\0))/.test(root) || (root !== "/" && root.endsWith("/"))) {
    throw invalid("root", "must be an absolute path on the remote host, without a slash at its end");
  }
  const { privateKeyFile, passphraseEnv, knownHostsFile } = config;
  for (const field of ["privateKeyFile", "knownHostsFile"] as const) {
    if (config[field] !== undefined && !isText(config[field])) throw invalid(field, "must be the path of a file");
  }
  if (passphraseEnv !== undefined && !(typeof passphraseEnv === "string" && /^[A-Za-z_]\w*$/.test(passphraseEnv))) {
    throw invalid("passphraseEnv", "must be the name of a variable of the environment");
  }
  for (const field of FLAGS) {
    if (config[field] !== undefined && typeof config[field] !== "boolean")
      throw invalid(field, "must be true or false");
  }
  const agent = agentOf(config);
  const numbers = { ...DEFAULTS, ...numbersOf(config) };
  if (numbers.reconnectMsMax < numbers.reconnectMsMin) {
    throw invalid("reconnectMsMax", "must not be below 'reconnectMsMin'");
  }
  return {
    ...numbers,
    ...{ host, user, root, fsync: config.fsync ?? false },
    ...(privateKeyFile !== undefined && { privateKeyFile }),
    ...(passphraseEnv !== undefined && { passphraseEnv }),
    ...(agent !== undefined && { agent }),
    ...hostKeysOf(config),
    ...(knownHostsFile !== undefined && { knownHostsFile }),
  };
}

function agentOf({ agent, privateKeyFile, passphraseEnv }: SftpConfig): string | undefined {
  if (agent === undefined && privateKeyFile === undefined) {
    throw invalid("privateKeyFile", "or 'agent' is needed: the path of a private key, or an SSH agent");
  }
  if (passphraseEnv !== undefined && privateKeyFile === undefined) {
    throw invalid("passphraseEnv", "belongs to 'privateKeyFile'");
  }
  if (agent !== true) {
    if (agent !== undefined && !isText(agent)) throw invalid("agent", "must be true or the path of a socket");
    return agent;
  }
  const socket = process.env.SSH_AUTH_SOCK;
  if (!isText(socket)) throw invalid("agent", "is true, but the environment has no SSH_AUTH_SOCK");
  return socket;
}

function hostKeysOf(config: SftpConfig): { readonly hostKeys: readonly string[]; readonly hostKeyCheck: boolean } {
  const { hostKey = [], knownHostsFile, hostKeyCheck = true } = config;
  const hostKeys = typeof hostKey === "string" ? [hostKey] : hostKey;
  if (!Array.isArray(hostKeys) || !hostKeys.every((each) => /^SHA256:[A-Za-z0-9+/]{43}=?$/.test(String(each)))) {
    throw invalid("hostKey", "must be a fingerprint 'SHA256:…' as ssh-keygen -lf prints it, or a list of them");
  }
  if (hostKeyCheck && hostKeys.length === 0 && knownHostsFile === undefined) {
    const how = "take it from `ssh-keyscan HOST | ssh-keygen -lf -`, after comparing it with the host's own";
    throw invalid("hostKey", `or 'knownHostsFile' is needed, so that the host can be told from an impostor: ${how}`);
  }
  return { hostKeys: hostKeys.map((each) => String(each).replace(/=$/, "")), hostKeyCheck };
}

function refuseUnknown(config: SftpConfig): void {
  const known = [...OTHER_FIELDS, ...FLAGS, ...Object.keys(DEFAULTS)];
  for (const field of Object.keys(config)) {
    if (known.includes(field)) continue;
    if (SECRET_FIELDS.includes(field)) {
      const how = "use 'privateKeyFile' or 'agent', and 'passphraseEnv' for a key that has a passphrase";
      throw invalid(field, `is not taken from a configuration; ${how}`);
    }
    throw invalid(field, "is not a setting");
  }
}

function numbersOf(config: SftpConfig): Partial<Record<NumberField, number>> {
  const numbers: Partial<Record<NumberField, number>> = {};
  for (const field of Object.keys(DEFAULTS) as NumberField[]) {
    const value = config[field];
    if (value === undefined) continue;
    const [min, max] = RANGES[field] ?? [1, 2 ** 31 - 1];
    if (!Number.isSafeInteger(value) || value < min || value > max) {
      throw invalid(field, `must be a whole number from ${min} to ${max}, got ${value}`);
    }
    numbers[field] = value;
  }
  return numbers;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "" && !value.includes("\0");
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `sftp backend: '${field}' ${reason}`, {
    operation: "config",
    context: { field },
  });
}
