import { crc32c } from "../crc32c.js";
import type { Amount } from "./amount.js";

/** Where a log has been written or read to. */
export interface LogPosition {
  /** Number of the file, from 0. */
  readonly file: number;
  readonly offset: number;
}

/** What one server says of its room for one tenant. All amounts only grow. */
export interface AccountState {
  readonly tenant: string;
  /** Room that it has taken. */
  readonly accepted: Amount;
  /** Of it, what it has stored; its log up to `MemberState.log` says which blocks. */
  readonly stored: Amount;
  /** Of it, what it has given back. */
  readonly released: Amount;
  /** Up to where it would like `accepted` to be raised. */
  readonly asked: Amount;
}

/** A server's file: only the server itself writes it. */
export interface MemberState {
  /** Goes up with each writing, so that others see that it lives. */
  readonly beat: number;
  /** It will not store any more. */
  readonly closed: boolean;
  readonly capacityBytes: number;
  readonly log: LogPosition;
  readonly accounts: readonly AccountState[];
}

/** What the leader allows one server. */
export interface Grant {
  /** The leader has read the server's log up to here. */
  readonly read: LogPosition;
  readonly accounts: readonly { readonly tenant: string; readonly granted: Amount }[];
}

export interface LeaseDocument {
  readonly writer: string;
  readonly beat: number;
  /** The leader has gone in good order. */
  readonly resigned: boolean;
}

/** A document longer than this is damaged. */
export const DOCUMENT_BYTES_MAX: number = 1 << 20;
const ACCOUNTS_MAX = 4096;

/** JSON behind its own checksum, so that damage and half a file are seen. */
export function encodeDocument(document: MemberState | Grant | LeaseDocument): Uint8Array {
  const text = Buffer.from(`${JSON.stringify(document)}\n`);
  return Buffer.concat([Buffer.from(`${checksum(text)} `), text]);
}

export function decodeState(bytes: Uint8Array): MemberState | undefined {
  const found = decode(bytes);
  if (found === undefined || !isCount(found.beat) || !isCount(found.capacityBytes) || !isPosition(found.log)) return;
  if (typeof found.closed !== "boolean" || !isAccounts(found.accounts, ["accepted", "stored", "released", "asked"]))
    return;
  return found as unknown as MemberState;
}

export function decodeGrant(bytes: Uint8Array): Grant | undefined {
  const found = decode(bytes);
  if (found === undefined || !isPosition(found.read) || !isAccounts(found.accounts, ["granted"])) return undefined;
  return found as unknown as Grant;
}

export function decodeLease(bytes: Uint8Array): LeaseDocument | undefined {
  const found = decode(bytes);
  if (found === undefined || typeof found.writer !== "string" || !isCount(found.beat)) return undefined;
  return typeof found.resigned === "boolean" ? (found as unknown as LeaseDocument) : undefined;
}

function decode(bytes: Uint8Array): Record<string, unknown> | undefined {
  if (bytes.length > DOCUMENT_BYTES_MAX) return undefined;
  const whole = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = whole.subarray(9);
  if (whole.length < 11 || whole.subarray(0, 9).toString("latin1") !== `${checksum(text)} `) return undefined;
  try {
    const found: unknown = JSON.parse(text.toString("utf8"));
    return typeof found === "object" && found !== null ? (found as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function checksum(text: Uint8Array): string {
  return crc32c(text).toString(16).padStart(8, "0");
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isAmount(value: unknown): boolean {
  const { bytes, files } = (value ?? {}) as Partial<Amount>;
  return isCount(bytes) && isCount(files);
}

function isPosition(value: unknown): boolean {
  const { file, offset } = (value ?? {}) as Partial<LogPosition>;
  return isCount(file) && isCount(offset);
}

function isAccounts(value: unknown, fields: readonly string[]): boolean {
  if (!Array.isArray(value) || value.length > ACCOUNTS_MAX) return false;
  const tenants = new Set<unknown>();
  for (const account of value as (Record<string, unknown> | null)[]) {
    if (account === null || typeof account.tenant !== "string" || tenants.has(account.tenant)) return false;
    tenants.add(account.tenant);
    if (!fields.every((field) => isAmount(account[field]))) return false;
  }
  return true;
}
