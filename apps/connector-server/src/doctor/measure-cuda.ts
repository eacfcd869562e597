import { randomFillSync } from "node:crypto";
import { KvferryError, toKvferryError } from "@kvferry/core";
import {
  type CudaGpu,
  crc32c,
  createFileEngine,
  createRegion,
  cudaReport,
  type Device,
  type DeviceLayout,
  type DeviceMemory,
  type FileEngine,
  type MappedRegion,
} from "@kvferry/native";
import { fillRandom } from "../bench/sample-blocks.js";
import { type CudaFacts, type GpuFacts, type GpuSpeed, uuidText } from "./cuda-facts.js";
import { CudaMemoryOwner } from "./cuda-memory.js";

const KIB = 1024;
const MEMORY_BYTES = 32 * KIB * KIB;
const CHUNK_BYTES = KIB * KIB;
const CHUNKS = MEMORY_BYTES / CHUNK_BYTES;
const CHECKED_PAGE_BYTES: readonly number[] = [4 * KIB, 32 * KIB];
const MEASURED_PAGE_BYTES: readonly number[] = [2 * KIB, 8 * KIB, 32 * KIB, 128 * KIB, 512 * KIB, 1024 * KIB];
const CELL_MS = 250;
const BATCHES_MIN = 3;

export interface MeasureCudaOptions {
  /** Leaves the speeds out. */
  readonly quick: boolean;
  onStep(done: number, step: string): void;
}

/** Tries every GPU that this process sees. @throws KvferryError UNSUPPORTED: there is no CUDA. */
export async function measureCuda({ quick, onStep }: MeasureCudaOptions): Promise<CudaFacts> {
  onStep(0, "the driver");
  const { version, gpus } = cudaReport();
  const facts: GpuFacts[] = [];
  for (const [i, gpu] of gpus.entries()) {
    const step = (share: number, what: string): void =>
      onStep((100 * (i + share)) / gpus.length, `${uuidText(gpu.uuid)}, ${what}`);
    facts.push(await measureGpu(gpu, quick, step));
  }
  return { version, gpus: facts };
}

type Step = (share: number, what: string) => void;

async function measureGpu(gpu: CudaGpu, quick: boolean, step: Step): Promise<GpuFacts> {
  const { name, memoryBytes, numaNode, batchedCopies } = gpu;
  const seen = { name, uuid: uuidText(gpu.uuid), memoryBytes, numaNode, batchedCopies };
  const tried = { failure: undefined, checkedBytes: 0, unpinnedReason: "", speeds: [] };
  step(0, "memory of another process");
  const owner = new CudaMemoryOwner(gpu.uuid, MEMORY_BYTES);
  const engine = createFileEngine();
  const hosts = [
    createRegion({ rows: CHUNKS, rowBytes: CHUNK_BYTES }),
    createRegion({ rows: CHUNKS, rowBytes: CHUNK_BYTES }),
  ];
  try {
    const memory: DeviceMemory = {
      kind: "cuda",
      uuid: gpu.uuid,
      memories: [{ handle: await owner.handle(), offset: 0, bytes: MEMORY_BYTES }],
    };
    return { ...seen, ...tried, ...(await tryMemory({ engine, owner, memory, hosts, quick, step })) };
  } catch (thrown) {
    const { code, message } = toKvferryError(thrown, "doctor");
    return { ...seen, ...tried, failure: { code, message } };
  } finally {
    owner.end();
    await engine.close();
    for (const host of hosts) host.close();
  }
}

interface Trial {
  readonly engine: FileEngine;
  readonly owner: CudaMemoryOwner;
  readonly memory: DeviceMemory;
  /** One that is page-locked, and one that is not. */
  readonly hosts: readonly MappedRegion[];
  readonly quick: boolean;
  readonly step: Step;
}

async function tryMemory(trial: Trial): Promise<Pick<GpuFacts, "checkedBytes" | "unpinnedReason" | "speeds">> {
  const { engine, memory, hosts, quick, step } = trial;
  const [pinned] = hosts as [MappedRegion];
  // Stays open, so that the context and the page-lock do.
  const holder = await engine.openDevice({ memory, layout: layoutOf(CHUNK_BYTES), hostRegions: [pinned] });
  try {
    let checkedBytes = 0;
    for (const pageBytes of CHECKED_PAGE_BYTES) {
      for (const host of hosts) {
        step(0.1, `copies of ${pageBytes / KIB} KiB pages`);
        checkedBytes += await checkCopies(trial, host, pageBytes);
      }
    }
    const speeds: GpuSpeed[] = [];
    const cells = MEASURED_PAGE_BYTES.flatMap((pageBytes) => hosts.map((host) => ({ pageBytes, host })));
    for (const [i, { pageBytes, host }] of quick ? [] : cells.entries()) {
      step(0.2 + (0.8 * i) / cells.length, `speed with ${pageBytes / KIB} KiB pages`);
      speeds.push(await measureSpeed(trial, host, pageBytes, host === pinned));
    }
    return { checkedBytes, unpinnedReason: holder.stats().unpinnedReason, speeds };
  } finally {
    await holder.close();
  }
}

/** One tensor that fills the memory; chunks of 1 MiB. */
function layoutOf(pageBytes: number): DeviceLayout {
  return {
    tensors: [{ memory: 0, offset: 0, strideBytes: pageBytes, pageBytes, pages: MEMORY_BYTES / pageBytes }],
    groups: [[{ tensor: 0, bytes: pageBytes }]],
    blocksPerChunk: CHUNK_BYTES / pageBytes,
  };
}

/** All pages, in no order. */
function shuffledPages(count: number): Uint32Array {
  const pages = Uint32Array.from({ length: count }, (_, i) => i);
  const random = randomFillSync(new Uint32Array(count));
  for (let i = count - 1; i > 0; i--) {
    const other = (random[i] as number) % (i + 1);
    const page = pages[i] as number;
    pages[i] = pages[other] as number;
    pages[other] = page;
  }
  return pages;
}

async function move(
  device: Device,
  what: "gather" | "scatter",
  host: MappedRegion,
  blocks: Uint32Array,
): Promise<void> {
  const hostOffsets = Float64Array.from({ length: CHUNKS }, (_, i) => i * CHUNK_BYTES);
  const groups = new Uint32Array(CHUNKS);
  const { outcomes } = await device[what]({ host: host.bytes, hostOffsets, groups, blocks });
  if (!outcomes.includes(0)) return;
  throw new KvferryError("DEVICE_FAILED", `a ${what} has failed: ${device.stats().lastError}`, { operation: "doctor" });
}

/** Scatters the whole memory and gathers it in another order: its owner and this process must see the bytes that belong there. */
async function checkCopies({ engine, owner, memory }: Trial, host: MappedRegion, pageBytes: number): Promise<number> {
  const device = await engine.openDevice({ memory, layout: layoutOf(pageBytes) });
  try {
    const pages = MEMORY_BYTES / pageBytes;
    const wanted = Buffer.alloc(MEMORY_BYTES);
    fillRandom(host);
    const view = new DataView(host.bytes.buffer, host.bytes.byteOffset);
    const scattered = shuffledPages(pages);
    scattered.forEach((page, i) => {
      view.setUint32(i * pageBytes, page); // unlike any other page
      wanted.set(host.bytes.subarray(i * pageBytes, (i + 1) * pageBytes), page * pageBytes);
    });
    await move(device, "scatter", host, scattered);
    host.bytes.fill(0);
    if ((await owner.sum()) !== crc32c(wanted)) throw wrong("after a scatter its owner reads other bytes");
    const gathered = shuffledPages(pages);
    await move(device, "gather", host, gathered);
    gathered.forEach((page, i) => {
      const here = host.bytes.subarray(i * pageBytes, (i + 1) * pageBytes);
      if (Buffer.compare(here, wanted.subarray(page * pageBytes, (page + 1) * pageBytes)) !== 0) {
        throw wrong(`a gather brings other bytes than page ${page} has`);
      }
    });
    return 2 * MEMORY_BYTES;
  } finally {
    await device.close();
  }
}

function wrong(what: string): KvferryError {
  return new KvferryError("CORRUPT", what, { operation: "doctor" });
}

async function measureSpeed(
  { engine, memory }: Trial,
  host: MappedRegion,
  pageBytes: number,
  pinned: boolean,
): Promise<GpuSpeed> {
  const device = await engine.openDevice({ memory, layout: layoutOf(pageBytes) });
  try {
    const blocks = shuffledPages(MEMORY_BYTES / pageBytes);
    const speedOf = async (what: "gather" | "scatter"): Promise<number> => {
      await move(device, what, host, blocks); // the first makes streams
      const startMs = performance.now();
      let batches = 0;
      while (batches < BATCHES_MIN || performance.now() - startMs < CELL_MS) {
        await move(device, what, host, blocks);
        batches++;
      }
      return (batches * MEMORY_BYTES * 1000) / (performance.now() - startMs);
    };
    const gatherBytesPerSecond = await speedOf("gather");
    return { pageBytes, pinned, gatherBytesPerSecond, scatterBytesPerSecond: await speedOf("scatter") };
  } finally {
    await device.close();
  }
}
