import { NAMESPACE_RECORD_BYTES_MAX, type NamespaceRecord, parseNamespaceRecord } from "@kvferry/core";
import { resolveConfig, type S3Config } from "./config.js";
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
  const root = resolved.prefix === "" ? "" : `${resolved.prefix}/`;
  const found: NamespaceRecord[] = [];
  try {
    let startAfter: string | undefined;
    for (;;) {
      const { objects } = await requests.list({ prefix: root, startAfter, objectsMax: 1 }, OPTIONS);
      const name = objects[0]?.name;
      if (name === undefined) return found;
      const folder = name.slice(root.length).split("/")[0] as string;
      startAfter = `${root}${folder}/${END}`;
      if (startAfter <= name) startAfter = name; // an object that is not ours
      const record = DIGEST.test(folder) ? await readRecord(requests, `${root}${folder}/namespace.json`) : undefined;
      if (record?.namespace.digestHex === folder) found.push(record);
    }
  } finally {
    requests.close();
  }
}

async function readRecord(requests: S3Requests, name: string): Promise<NamespaceRecord | undefined> {
  const chunks: Buffer[] = [];
  const sink = {
    head: ({ bytes = Number.POSITIVE_INFINITY }): boolean => bytes <= NAMESPACE_RECORD_BYTES_MAX,
    chunk: (bytes: Uint8Array): boolean => chunks.push(Buffer.from(bytes)) > 0,
  };
  if (!(await requests.read(name, sink, OPTIONS))) return undefined;
  try {
    return parseNamespaceRecord(Buffer.concat(chunks).toString("utf8"));
  } catch {
    return undefined; // of a later version, or no record at all
  }
}
