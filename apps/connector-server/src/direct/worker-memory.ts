import { KvferryError, toKvferryError } from "@kvferry/core";
import {
  type Device,
  type DeviceMemory,
  type FileEngine,
  type MappedRegion,
  mapRegionFd,
  type PeerCredentials,
} from "@kvferry/native";
import type { DirectWorker } from "@kvferry/protocol";

/** A worker's memory, opened. */
export interface WorkerMemory {
  readonly device: Device;
  /** Ends after the copies under way. */
  close(): Promise<void>;
}

/**
 * Opens the memory that a worker has described. Process memory is always the peer's own, by the pid that the kernel says it has: what a client names is never believed.
 *
 * @param fds of memory of the kind `region`, one each; those that are taken over are taken out.
 * @param hostRegions memory of the server that copies will use.
 * @throws KvferryError with `context.field` of HELLO.
 */
export async function openWorkerMemory(
  worker: DirectWorker,
  peer: PeerCredentials,
  fds: number[],
  engine: FileEngine,
  hostRegions: readonly MappedRegion[],
): Promise<WorkerMemory> {
  const { tensors, groups, blocksPerChunk, partBytes } = worker;
  const regions: MappedRegion[] = [];
  let device: Device | undefined;
  const close = async (): Promise<void> => {
    await device?.close();
    for (const region of regions) region.close();
  };
  try {
    const memory = deviceMemory(worker, peer, fds, regions);
    device = await engine.openDevice({ memory, layout: { tensors, groups, blocksPerChunk }, hostRegions });
    if (device.partBytes > partBytes) {
      throw invalid("direct.partBytes", `is ${partBytes}; the tensors make parts of ${device.partBytes} bytes`);
    }
    return { device, close };
  } catch (thrown) {
    await close();
    throw inHello(toKvferryError(thrown, "hello"));
  }
}

function deviceMemory(
  { memory }: DirectWorker,
  { pid }: PeerCredentials,
  fds: number[],
  regions: MappedRegion[],
): DeviceMemory {
  switch (memory.kind) {
    case "cuda":
      return memory;
    case "process":
      if (pid > 0) return { kind: "process", pid, memories: memory.memories };
      throw new KvferryError(
        "UNSUPPORTED",
        "the worker's process is not visible from this pid namespace: run server and engine in one, or use tier mode",
        { operation: "hello", context: { field: "direct.memory" } },
      );
    case "region":
      for (const { bytes } of memory.memories) {
        regions.push(mapRegionFd(fds.shift() as number, { rows: 1, rowBytes: bytes }));
      }
      return { kind: "region", memories: regions };
  }
}

/** The data plane names fields of its own call. */
function inHello(error: KvferryError): KvferryError {
  const { field } = error.context;
  if (typeof field === "string" && field.startsWith("direct")) return error;
  const own = typeof field === "string" ? `direct.${field.replace(/^layout\./, "")}` : "direct.memory";
  return new KvferryError(error.code, error.message, {
    operation: "hello",
    context: { ...error.context, field: own },
    cause: error,
  });
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `'${field}' ${reason}`, { operation: "hello", context: { field } });
}
