import { KvferryError } from "./errors.js";
import { createNamespace, type Namespace } from "./namespace.js";

/** A namespace as it is written down beside its blocks, so that people and tools find out whose they are. */
export interface NamespaceRecord {
  readonly namespace: Namespace;
  readonly keyBytes: number;
  readonly blockBytes: number;
}

/** Far more than any has. */
export const NAMESPACE_RECORD_BYTES_MAX: number = 2 ** 20;

/** JSON, with a newline at its end. */
export function formatNamespaceRecord({ namespace, keyBytes, blockBytes }: NamespaceRecord): string {
  const { digestHex: digest, fields } = namespace;
  return `${JSON.stringify({ digest, keyBytes, blockBytes, fields }, null, 2)}\n`;
}

/** @throws KvferryError INVALID_ARGUMENT for what is no record, or one whose digest is not that of its fields. */
export function parseNamespaceRecord(text: string): NamespaceRecord {
  if (text.length > NAMESPACE_RECORD_BYTES_MAX) throw invalid(`has over ${NAMESPACE_RECORD_BYTES_MAX} characters`);
  const { digest, keyBytes, blockBytes, fields } = objectOf(text);
  const namespace = createNamespace(fields);
  if (digest !== namespace.digestHex) throw invalid("has a digest that is not that of its fields");
  if (!isPositive(keyBytes) || !isPositive(blockBytes)) throw invalid("lacks keyBytes or blockBytes");
  return { namespace, keyBytes, blockBytes };
}

function objectOf(text: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw invalid("is not JSON");
  }
  if (typeof value === "object" && value !== null) return value as Readonly<Record<string, unknown>>;
  throw invalid("is no object");
}

function isPositive(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function invalid(reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `a namespace's record ${reason}`, { operation: "open" });
}
