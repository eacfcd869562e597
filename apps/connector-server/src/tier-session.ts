import { createNamespace } from "@kvferry/core";
import { closeFd } from "@kvferry/native";
import type { HelloMessage } from "@kvferry/protocol";
import {
  acquireNamespace,
  batchKeysMaxOf,
  type OpenedSession,
  type SessionLink,
  tellRemoved,
  welcomeOf,
} from "./opened-session.js";
import { type ClientRegion, checkRegion, mapClientRegion } from "./region.js";
import { TierRequests } from "./requests/tier-requests.js";
import type { SessionContext } from "./session.js";

/** Opens the session of an engine with a region of its own: maps that, opens the namespace.
 * @param fds descriptors that came with HELLO; they are taken over.
 * @throws KvferryError with `context.field` of HELLO. */
export async function openTierSession(
  hello: HelloMessage,
  fds: readonly number[],
  context: SessionContext,
  link: SessionLink,
): Promise<OpenedSession> {
  const region = await regionOf(hello, fds);
  try {
    return await open(hello, region, context, link);
  } catch (thrown) {
    region.close();
    throw thrown;
  }
}

async function regionOf(hello: HelloMessage, [fd, ...unclaimed]: readonly number[]): Promise<ClientRegion> {
  for (const each of unclaimed) closeFd(each);
  try {
    createNamespace(hello.namespace); // what is wrong with it is told first
    checkRegion(hello);
  } catch (thrown) {
    if (fd !== undefined) closeFd(fd);
    throw thrown;
  }
  return mapClientRegion(hello, fd);
}

async function open(
  hello: HelloMessage,
  region: ClientRegion,
  context: SessionContext,
  link: SessionLink,
): Promise<OpenedSession> {
  const lease = await acquireNamespace(context.namespaces, hello);
  const { backend, namespace } = lease;
  const { limits, metrics, logger, deadlineMs } = context;
  const requests = new TierRequests({
    backend,
    keyBytes: hello.keyBytes,
    deadlineMs,
    region,
    batchKeysMax: batchKeysMaxOf(context, backend),
    requestsMax: limits.requestsMax,
    requestBytesMax: limits.requestBytesMax,
    metrics,
    logger,
    send: (message) => link.send(message),
  });
  const stopTelling = tellRemoved(backend, hello, link);
  return {
    namespace,
    requests,
    welcome: welcomeOf(context, lease),
    fds: [],
    facts: { slots: hello.slots },
    async close() {
      stopTelling();
      region.close();
      lease.release();
    },
  };
}
