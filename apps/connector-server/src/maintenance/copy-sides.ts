import { statSync } from "node:fs";
import { join, resolve } from "node:path";
import { KvferryError, silentLogger, toKvferryError } from "@kvferry/core";
import type { ResolvedConfig } from "../config.js";
import { checkConfigText } from "../config-file.js";
import { startStorage } from "../storage/storage.js";
import { isFolderTier, type ResolvedTier, resolveTiers, type TierConfig } from "../storage/tier-config.js";
import type { TierRuntime } from "../storage/tier-runtime.js";

/** Where a copy comes from and where it goes to, as messages call it. */
export type SideName = "FROM" | "TO";

const DRIVE_FILE = "segments.kvs";
const SHORT_FORMS =
  "posix:/path, nfs:/path, parallel-fs:/path, nvme:/path, s3:bucket/prefix or sftp:user@host:port/path, with ?field=value&… for more of a tier's fields";

/**
 * The tier that an argument means: the name of a tier of the configuration, or a short form, `BACKEND:PLACE?field=value&field=value`.
 * PLACE is the folder of posix, nfs and parallel-fs, the folder or device of nvme, BUCKET or BUCKET/PREFIX of s3 and USER@HOST/FOLDER or USER@HOST:PORT/FOLDER of sftp;
 * the fields are those of a tier in the configuration file, checked in the same way, a dot where one lies in another (`sse.type=AES256`).
 *
 * @throws KvferryError CONFIG_INVALID that names side and field.
 */
export function resolveSide(side: SideName, text: string, config: ResolvedConfig): ResolvedTier {
  const tier = text.includes(":") ? fromShortForm(side, text) : fromName(side, text, config);
  if (tier.backend === "memory") throw invalid(side, "backend", "is memory, which ends with its server");
  const existing = tier.backend === "nvme" ? driveBytes(tier.path) : undefined;
  // another capacity would give up the drive's last segments, and what is in them
  return side === "FROM" && tier.backend === "nvme" && existing !== undefined
    ? { ...tier, capacityBytes: existing }
    : tier;
}

/** Whether something was ever stored there, as far as that can be told without making anything. */
export function exists(tier: ResolvedTier): boolean {
  if (isFolderTier(tier)) return statOf(tier.root)?.isDirectory() ?? false;
  if (tier.backend !== "nvme") return true;
  return statOf(tier.path)?.isBlockDevice() === true || driveBytes(tier.path) !== undefined;
}

/** Whether two tiers are over the same blocks. The layouts of a folder have paths of their own. */
export function isSamePlace(a: ResolvedTier, b: ResolvedTier): boolean {
  if (isFolderTier(a) && isFolderTier(b))
    return resolve(a.root) === resolve(b.root) && (a.layout ?? "kvferry") === (b.layout ?? "kvferry");
  if (a.backend === "nvme" && b.backend === "nvme") return resolve(a.path) === resolve(b.path);
  if (a.backend === "sftp" && b.backend === "sftp")
    return a.host === b.host && (a.port ?? 22) === (b.port ?? 22) && a.root === b.root;
  if (a.backend !== "s3" || b.backend !== "s3") return false;
  return a.bucket === b.bucket && (a.prefix ?? "") === (b.prefix ?? "") && a.endpoint === b.endpoint;
}

/** @throws KvferryError that begins with the side's name. */
export async function startSide(side: SideName, tier: ResolvedTier, config: ResolvedConfig): Promise<TierRuntime> {
  const storage = await named(side, () => startStorage([tier], config.limits, silentLogger));
  return storage.tiers[0] as TierRuntime;
}

/** Runs something; what it throws begins with the side's name, and fields are those of its tier. */
export async function named<T>(side: SideName, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (thrown) {
    throw renamed(side, thrown);
  }
}

export function invalid(side: SideName, field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `${side}: '${field}' ${reason}`, {
    operation: "config",
    context: { field: `${side}.${field}` },
  });
}

function fromName(side: SideName, name: string, { tiers }: ResolvedConfig): ResolvedTier {
  const tier = tiers.find((each) => each.name === name);
  if (tier !== undefined) return tier;
  const known = tiers.map((each) => each.name).join(", ");
  throw invalid(side, "name", `is ${name}; the configuration has ${known}. Or give a place: ${SHORT_FORMS}`);
}

function fromShortForm(side: SideName, text: string): ResolvedTier {
  const [, backend = "", place = "", query = ""] = /^([^:]*):([^?]*)\??(.*)$/s.exec(text) ?? [];
  const tier: Record<string, unknown> = Object.assign(Object.create(null), { backend, ...placeOf(backend, place) });
  for (const [name, value] of new URLSearchParams(query)) setField(side, tier, name.split("."), value);
  const existing = backend === "nvme" && place !== "" ? driveBytes(place) : undefined;
  if (existing !== undefined) tier.capacity ??= existing;
  const { problems } = checkConfigText(JSON.stringify({ tiers: [tier] }));
  const [first] = problems;
  if (first !== undefined) {
    const lines = problems.map(({ message }) => `${side}: ${withoutIndex(message)}`);
    throw new KvferryError("CONFIG_INVALID", lines.join("\n"), {
      operation: "config",
      context: { field: `${side}.${withoutIndex(first.field)}` },
    });
  }
  try {
    return resolveTiers([tier as unknown as TierConfig])[0] as ResolvedTier;
  } catch (thrown) {
    throw renamed(side, thrown);
  }
}

function placeOf(backend: string, place: string): Record<string, string | number> {
  if (place === "") return {}; // the schema says what is missing
  if (backend === "nvme") return { path: place };
  if (backend === "sftp") return remotePlace(place);
  if (backend !== "s3") return { root: place };
  const [bucket = "", ...prefix] = place.split("/");
  return { bucket, ...(prefix.length > 0 ? { prefix: prefix.join("/") } : {}) };
}

/** USER@HOST/FOLDER or USER@HOST:PORT/FOLDER; a host that is an IPv6 address stands in brackets. What does not fit is left out, and the schema says what is missing. */
function remotePlace(place: string): Record<string, string | number> {
  const found = /^(?:([^@/]+)@)?(?:\[([^\]/]+)\]|([^:/[\]]+))(?::(\d{1,5}))?(\/.*)?$/s.exec(place);
  const [, user, address, name, port, root] = found ?? [];
  const host = address ?? name;
  return {
    ...(user !== undefined && { user }),
    ...(host !== undefined && { host }),
    ...(port !== undefined && { port: Number(port) }),
    ...(root !== undefined && { root }),
  };
}

function setField(side: SideName, tier: Record<string, unknown>, path: readonly string[], text: string): void {
  const name = path[0] as string;
  if (path.length === 1) {
    if (Object.hasOwn(tier, name)) throw invalid(side, name, "is given twice");
    tier[name] = typed(text);
    return;
  }
  const inner = (tier[name] ?? Object.create(null)) as Record<string, unknown>;
  if (typeof inner !== "object") throw invalid(side, name, "is given twice");
  tier[name] = inner;
  setField(side, inner, path.slice(1), text);
}

function typed(text: string): string | number | boolean {
  if (text === "true" || text === "false") return text === "true";
  return /^\d{1,15}$/.test(text) ? Number(text) : text;
}

/** What the file of a drive takes; undefined where there is none, and for a block device. */
function driveBytes(path: string): number | undefined {
  const size = statOf(join(path, DRIVE_FILE))?.size;
  return size === undefined ? undefined : Number(size);
}

function statOf(path: string): ReturnType<typeof statSync> {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined; // whoever opens it will say why
  }
}

function renamed(side: SideName, thrown: unknown): KvferryError {
  const error = toKvferryError(thrown, "copy");
  const field =
    typeof error.context.field === "string" ? { field: `${side}.${withoutIndex(error.context.field)}` } : {};
  const message = withoutIndex(error.message.replace(/^(configuration|[a-z0-9-]+ backend): /, ""));
  return new KvferryError(error.code, message.startsWith(`${side}: `) ? message : `${side}: ${message}`, {
    operation: error.operation ?? "copy",
    context: { ...error.context, ...field },
    cause: thrown,
  });
}

function withoutIndex(text: string): string {
  return text.replaceAll("tiers[0].", "");
}
