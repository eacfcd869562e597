import { NAMESPACE_RECORD_BYTES_MAX, type NamespaceRecord, parseNamespaceRecord } from "@kvferry/core";
import { each } from "./at-once.js";
import { resolveConfig, type SftpConfig } from "./config.js";
import { connectSftp } from "./connection.js";
import { toSftpError } from "./errors.js";
import { entriesOf, FOLDER_REQUESTS_MAX } from "./folders.js";
import { PacketPool } from "./packets.js";
import type { Handle, SftpSession } from "./session.js";

/** Every namespace below the root, whether anyone serves it or not. Folders without a record that can be read are left out.
 * @throws KvferryError for a host that lets us not in, or a root that cannot be listed. */
export async function storedNamespaces(config: SftpConfig): Promise<NamespaceRecord[]> {
  const resolved = resolveConfig(config);
  const { host, root, requestBytesMax } = resolved;
  const { session, destroy } = await connectSftp(resolved, new PacketPool(requestBytesMax, 0), () => {});
  try {
    const names = (await entriesOf(session, root))
      .map(({ name }) => name)
      .filter((name) => /^[0-9a-f]{64}$/.test(name));
    const found: NamespaceRecord[] = [];
    await each(names.length, FOLDER_REQUESTS_MAX, async (i) => {
      const name = names[i] as string;
      const record = await readRecord(session, `${root}/${name}/namespace.json`);
      if (record?.namespace.digestHex === name) found.push(record);
    });
    return found;
  } catch (thrown) {
    throw toSftpError(thrown, "scan", { host, path: root });
  } finally {
    destroy();
  }
}

async function readRecord(session: SftpSession, path: string): Promise<NamespaceRecord | undefined> {
  let handle: Handle | undefined;
  try {
    handle = await session.openToRead(path);
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    const sink = (piece: Uint8Array): void => {
      pieces.push(piece.slice()); // the next packet may lie in the same memory
      bytes += piece.length;
    };
    while (bytes <= NAMESPACE_RECORD_BYTES_MAX && (await session.read(handle, bytes, session.requestBytes, sink))) {
      // to its end
    }
    return parseNamespaceRecord(Buffer.concat(pieces).toString("utf8"));
  } catch {
    return undefined; // unfinished, of a later version, or no record at all
  } finally {
    if (handle !== undefined) void session.close(handle).catch(() => {});
  }
}
