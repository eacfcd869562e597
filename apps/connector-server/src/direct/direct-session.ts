import type { HostMemoryBackend } from "@kvferry/backend-host-memory";
import { KvferryError } from "@kvferry/core";
import { closeFd } from "@kvferry/native";
import type { DirectHelloMessage, DirectScheduler, DirectWorker } from "@kvferry/protocol";
import type { NamespaceLease } from "../namespaces.js";
import {
  acquireNamespace,
  batchKeysMaxOf,
  type OpenedSession,
  type SessionLink,
  tellRemoved,
  welcomeOf,
} from "../opened-session.js";
import type { RequestBookOptions } from "../requests/request-book.js";
import type { SessionContext } from "../session.js";
import type { DirectEngine } from "./engine.js";
import { SchedulerRequests } from "./scheduler-requests.js";
import { openWorkerMemory } from "./worker-memory.js";
import { WorkerRequests } from "./worker-requests.js";

/** What a connection of an engine in direct mode is opened with. */
interface Joining {
  readonly hello: DirectHelloMessage;
  readonly context: SessionContext;
  readonly link: SessionLink;
  readonly lease: NamespaceLease;
  readonly memory: HostMemoryBackend;
  readonly engine: DirectEngine;
}

/** Opens the session of an engine in direct mode: of its scheduler, or of one of its workers.
 * @param fds descriptors that came with HELLO; they are taken over.
 * @throws KvferryError with `context.field` of HELLO. */
export async function openDirectSession(
  hello: DirectHelloMessage,
  fds: readonly number[],
  context: SessionContext,
  link: SessionLink,
): Promise<OpenedSession> {
  const unclaimed = [...fds];
  try {
    checkDirect(hello, fds.length);
    const lease = await acquireNamespace(context.namespaces, hello);
    try {
      return await join(hello, unclaimed, context, link, lease);
    } catch (thrown) {
      lease.release();
      throw thrown;
    }
  } finally {
    for (const fd of unclaimed) closeFd(fd);
  }
}

async function join(
  hello: DirectHelloMessage,
  fds: number[],
  context: SessionContext,
  link: SessionLink,
  lease: NamespaceLease,
): Promise<OpenedSession> {
  const memory = memoryOf(lease);
  const engine = context.engines.join(hello, lease, memory);
  const joining = { hello, context, link, lease, memory, engine };
  try {
    const { direct } = hello;
    return direct.role === "scheduler" ? openScheduler(direct, joining) : await openWorker(direct, fds, joining);
  } catch (thrown) {
    context.engines.leave(engine);
    throw thrown;
  }
}

function openScheduler({ role, workers }: DirectScheduler, joining: Joining): OpenedSession {
  const { hello, context, link, lease, memory, engine } = joining;
  const requests = new SchedulerRequests({ ...bookOptions(joining), engine, workers, ...boundsOf(joining) });
  const stopTelling = tellRemoved(lease.backend, hello, link);
  const stopListening = engine.addScheduler(link);
  return {
    namespace: lease.namespace,
    requests,
    welcome: { ...welcomeOf(context, lease), direct: context.engines.welcome(memory) },
    fds: [],
    facts: { engine: engine.shape.engine, role },
    async close() {
      stopTelling();
      stopListening();
      context.engines.leave(engine);
      lease.release();
    },
  };
}

async function openWorker(worker: DirectWorker, fds: number[], joining: Joining): Promise<OpenedSession> {
  const { context, link, lease, memory, engine } = joining;
  const place = engine.addWorker(worker.part, worker.stores);
  try {
    const hostRegions = [memory.arena.region, engine.gatherRegion];
    const opened = await openWorkerMemory(worker, link.peer, fds, memory.arena.engine, hostRegions);
    place.isReady();
    const requests = new WorkerRequests({
      ...bookOptions(joining),
      engine,
      worker,
      device: opened.device,
      ...boundsOf(joining),
    });
    return {
      namespace: lease.namespace,
      requests,
      welcome: { ...welcomeOf(context, lease), direct: context.engines.welcome(memory) },
      fds: [context.engines.arenaFd(memory)],
      facts: { engine: engine.shape.engine, role: worker.role, part: worker.part, memory: worker.memory.kind },
      async close() {
        await opened.close();
        place.leave();
        context.engines.leave(engine);
        lease.release();
      },
    };
  } catch (thrown) {
    place.leave();
    throw thrown;
  }
}

function bookOptions({ hello, context, link }: Joining): RequestBookOptions {
  const { limits, metrics, logger } = context;
  const { requestsMax, requestBytesMax } = limits;
  const send: RequestBookOptions["send"] = (message) => link.send(message);
  return { keyBytes: hello.keyBytes, requestsMax, requestBytesMax, metrics, logger, send };
}

function boundsOf({ context, lease }: Joining): { readonly batchKeysMax: number } {
  return { batchKeysMax: batchKeysMaxOf(context, lease.backend) };
}

/** What HELLO says must fit together.
 * @throws KvferryError INVALID_ARGUMENT with `context.field`. */
function checkDirect({ direct, blockBytes }: DirectHelloMessage, descriptors: number): void {
  const { parts, partBytes } = direct;
  if (parts * partBytes > blockBytes) {
    throw invalid("direct.partBytes", `is ${partBytes}: ${parts} parts have more than a block's ${blockBytes} bytes`);
  }
  if (direct.role === "scheduler") return;
  if (direct.part >= parts) throw invalid("direct.part", `is ${direct.part} of ${parts} parts, from 0`);
  const { kind, memories } = direct.memory;
  if (kind === "region" && memories.length !== descriptors) {
    throw invalid("direct.memory.memories", `are ${memories.length}, and ${descriptors} descriptors came with them`);
  }
}

function memoryOf({ storage }: NamespaceLease): HostMemoryBackend {
  if (storage.memory !== undefined) return storage.memory;
  throw new KvferryError(
    "UNSUPPORTED",
    "direct mode needs a memory tier as the first one: put '- { backend: memory, capacity: 32GiB }' first in 'tiers' of the server's configuration, or use tier mode",
    { operation: "hello", context: { field: "direct" } },
  );
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `'${field}' ${reason}`, { operation: "hello", context: { field } });
}
