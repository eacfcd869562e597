import { NAMESPACE_RECORD_BYTES_MAX, type NamespaceRecord, parseNamespaceRecord } from "@kvferry/core";
import { resolveConfig, type S3Config } from "./config.js";
import { readObject } from "./read-object.js";
import { type RequestOptions, S3Requests } from "./requests.js";

const OPTIONS: RequestOptions = { priority: "store" };
const DIGEST = /^[0-9a-f]{64}$/;
/** After every name of a namespace, and before those of the next. */
const END = "~";

/** Every namespace below the prefix, whether anyone serves it or not; two requests each. What has no record that can be read is left out.
 * @throws KvferryError for a bucket that cannot be listed. */
export async function storedNamespaces(config: S3Config): Promise<NamespaceRecord[]> {
  const resolved = resolveConfig(config);
  const requests = new S3Requests(resolved);
  const root = rootOf(resolved.prefix);
  const found: NamespaceRecord[] = [];
  try {
    for await (const digest of namespaceFolders(requests, root)) {
      const record = await namespaceRecord(requests, root, digest);
      if (record !== undefined) found.push(record);
    }
    return found;
  } finally {
    requests.close();
  }
}

/** What comes before the names of all namespaces. */
export function rootOf(prefix: string): string {
  return prefix === "" ? "" : `${prefix}/`;
}

/** The digests of the namespaces below `root`, one request each. */
export async function* namespaceFolders(requests: S3Requests, root: string): AsyncGenerator<string> {
  let startAfter: string | undefined;
  for (;;) {
    const { objects } = await requests.list({ prefix: root, startAfter, objectsMax: 1 }, OPTIONS);
    const name = objects[0]?.name;
    if (name === undefined) return;
    const folder = name.slice(root.length).split("/")[0] as string;
    startAfter = `${root}${folder}/${END}`;
    if (startAfter <= name) startAfter = name; // an object that is not ours
    if (DIGEST.test(folder)) yield folder;
  }
}

/** A namespace's record; undefined where there is none that can be read. */
export async function namespaceRecord(
  requests: S3Requests,
  root: string,
  digest: string,
): Promise<NamespaceRecord | undefined> {
  const bytes = await readObject(requests, `${root}${digest}/namespace.json`, [0, NAMESPACE_RECORD_BYTES_MAX], OPTIONS);
  if (bytes === undefined) return undefined;
  try {
    const record = parseNamespaceRecord(Buffer.from(bytes).toString("utf8"));
    return record.namespace.digestHex === digest ? record : undefined;
  } catch {
    return undefined; // of a later version, or no record at all
  }
}
