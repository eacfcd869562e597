import type { KvferryError, Logger } from "@kvferry/core";
import type { ObjectNames } from "./names.js";
import type { RequestOptions, S3Requests } from "./requests.js";

/**
 * Moves a damaged block out of the way, so that it can be stored anew and someone can look at what happened. Where it cannot be
 * copied it is removed all the same: a damaged block is of no use, and would stay in the way for ever.
 */
export async function quarantineBlock(
  requests: S3Requests,
  names: ObjectNames,
  { key, nowMs, objectsMax }: { key: Uint8Array; nowMs: number; objectsMax: number },
  logger: Logger,
): Promise<void> {
  const options: RequestOptions = { priority: "store" };
  const name = names.block(key);
  try {
    if (objectsMax > 0 && !(await requests.copy(name, names.quarantined(key, nowMs), options))) return; // it has gone
  } catch (err) {
    logger.warn({ err, ...requests.place, object: name }, "a damaged block could not be kept for a look");
  }
  await requests.delete(name, options);
  if (objectsMax > 0)
    await keepNewest(requests, names, objectsMax, options).catch((err: KvferryError) => {
      logger.warn({ err, ...requests.place }, "old blocks in the quarantine could not be removed");
    });
}

/** Names sort by their time. More than a page of them cannot be there, as each visit brings it down to the bound. */
async function keepNewest(
  requests: S3Requests,
  names: ObjectNames,
  objectsMax: number,
  options: RequestOptions,
): Promise<void> {
  const { objects } = await requests.list({ prefix: names.quarantine }, options);
  const old = objects.slice(0, Math.max(0, objects.length - objectsMax));
  for (const { name } of old) await requests.delete(name, options);
}
