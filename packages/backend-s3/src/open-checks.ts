import { type AuthorContext, formatNamespaceRecord, KvferryError } from "@kvferry/core";
import { runningChecksum } from "./checksum.js";
import type { ObjectNames } from "./names.js";
import type { CreateOutcome, RequestOptions, S3Requests } from "./requests.js";

/**
 * Writes the namespace's description where people and tools find it. It is the probe as well: of bucket, region, clock and credentials, and
 * of whether the storage honours If-None-Match: some take it and overwrite all the same.
 * @returns whether a create can be conditional
 * @throws KvferryError that names what is wrong.
 */
export async function describeAndProbe(
  requests: S3Requests,
  names: ObjectNames,
  context: AuthorContext,
  options: RequestOptions,
): Promise<boolean> {
  const text = Buffer.from(formatNamespaceRecord(context));
  const checksum = runningChecksum()(text);
  const create = (condition: boolean): Promise<CreateOutcome> =>
    requests.put(names.description, [text], checksum, condition, options, "open");
  try {
    if ((await create(true)) === "taken" || (await create(true)) === "taken") return true;
  } catch (thrown) {
    if (!(thrown instanceof KvferryError) || thrown.code !== "UNSUPPORTED") throw thrown;
    await create(false);
  }
  context.logger.info(
    { ...requests.place },
    "the storage does not honour If-None-Match: a block that two hosts store at once is written twice",
  );
  return false;
}

/** Aborts uploads of this namespace that were begun long ago: they cost room, and nothing lists them as objects. */
export async function abortLeftovers(
  requests: S3Requests,
  names: ObjectNames,
  { olderThanMs, context }: { olderThanMs: number; context: AuthorContext },
  options: RequestOptions,
): Promise<void> {
  const { clock, logger } = context;
  try {
    const before = clock.nowMs() - olderThanMs;
    const old = (await requests.listUploads(names.root, options)).filter(({ begunAtMs }) => begunAtMs <= before);
    for (const { name, id } of old) await requests.abortUpload(name, id, options);
    if (old.length > 0) logger.info({ ...requests.place, uploads: old.length }, "aborted unfinished uploads");
  } catch (err) {
    if (options.signal?.aborted) return;
    logger.warn(
      { err, ...requests.place },
      "unfinished uploads could not be looked for; let a lifecycle rule abort them",
    );
  }
}
