import { createHash, createHmac } from "node:crypto";

/** A line of a known_hosts file that speaks of the host. */
export interface KnownHost {
  /** "ssh-ed25519", … */
  readonly type: string;
  readonly fingerprint: string;
  readonly revoked: boolean;
}

/** As `ssh-keygen -l` prints it. */
export function fingerprintOf(key: Uint8Array): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** The type that stands in a key's first field. */
export function keyTypeOf(key: Uint8Array): string {
  const bytes = Buffer.from(key.buffer, key.byteOffset, key.byteLength);
  if (bytes.length < 4) return "unknown";
  return bytes.toString("latin1", 4, 4 + Math.min(bytes.readUInt32BE(0), 64)).replace(/[^\w@.-]/g, "?");
}

/** The lines of a known_hosts file that speak of a host: plain names, patterns, `[host]:port`, and hashed names. Certificate authorities are
 * not known here, and left out. */
export function knownHosts(text: string, host: string, port: number): KnownHost[] {
  const name = port === 22 ? host.toLowerCase() : `[${host.toLowerCase()}]:${port}`;
  const found: KnownHost[] = [];
  for (const line of text.split(/\r?\n/)) {
    const fields = line.trim().split(/\s+/);
    const marker = fields[0]?.startsWith("@") ? fields.shift() : undefined;
    const [names = "", type = "", key = ""] = fields;
    if (names === "" || names.startsWith("#") || key === "") continue;
    if (marker !== undefined && marker !== "@revoked") continue;
    if (!matches(names, name)) continue;
    found.push({ type, fingerprint: fingerprintOf(Buffer.from(key, "base64")), revoked: marker !== undefined });
  }
  return found;
}

function matches(names: string, name: string): boolean {
  if (names.startsWith("|1|")) {
    const [, , salt = "", hash = ""] = names.split("|");
    return createHmac("sha1", Buffer.from(salt, "base64")).update(name).digest("base64") === hash;
  }
  let matched = false;
  for (const each of names.toLowerCase().split(",")) {
    const negated = each.startsWith("!");
    if (!patternOf(negated ? each.slice(1) : each).test(name)) continue;
    if (negated) return false;
    matched = true;
  }
  return matched;
}

function patternOf(pattern: string): RegExp {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`);
}
