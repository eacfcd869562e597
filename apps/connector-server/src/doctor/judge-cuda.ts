import type { Finding } from "@kvferry/core";
import { bytesText } from "../sizes.js";
import type { GpuFacts, GpuSpeed } from "./cuda-facts.js";

/** What the facts of a GPU mean for direct mode. */
export function judgeGpu(gpu: GpuFacts, version: string): Finding[] {
  const { name, memoryBytes, numaNode, failure } = gpu;
  const node = numaNode === undefined ? "" : `, NUMA node ${numaNode}`;
  const seen: Finding = {
    ...{ severity: "fine", subject: "GPU" },
    found: `${name}, ${bytesText(memoryBytes)}${node}; the driver supports CUDA ${version}`,
    means: "this process sees it",
  };
  if (failure !== undefined) return [seen, cudaFailure(failure)];
  return [seen, copies(gpu), batches(gpu), pinning(gpu)];
}

/** A GPU that was tried in vain. */
export function cudaFailure({ code, message }: { readonly code: string; readonly message: string }): Finding {
  if (code === "CORRUPT") {
    return {
      ...{ severity: "problem", subject: "copies", found: message },
      means: "engines would compute with bytes that are not theirs: direct mode must not be used here",
      change: "report it, with `--report FILE`; use tier mode",
    };
  }
  return {
    ...{ severity: "problem", subject: "shared memory", found: `${code}: ${message}` },
    means: "an engine's KV memory cannot be used by another process: direct mode does not work here",
    change: "docs/cuda.md names what CUDA IPC needs; tier mode does without",
  };
}

function copies({ checkedBytes }: GpuFacts): Finding {
  return {
    ...{ severity: "fine", subject: "copies" },
    found: `${bytesText(checkedBytes)} of another process's memory were written and read in scattered pages, all of them right`,
    means: "direct mode works",
  };
}

function batches({ batchedCopies }: GpuFacts): Finding {
  const subject = "batched copies";
  return batchedCopies
    ? { severity: "fine", subject, found: "supported", means: "the pages of a block go to the driver in one call" }
    : {
        ...{ severity: "advice", subject, found: "not supported" },
        means: "pages go to the driver one by one: small pages are slower",
        change: "install a driver that supports CUDA 12.8 or newer; there is none for WSL",
      };
}

function pinning({ unpinnedReason }: GpuFacts): Finding {
  const subject = "page-locked host memory";
  return unpinnedReason === ""
    ? { severity: "fine", subject, found: "the driver takes it", means: "copies run at the speed of the bus" }
    : {
        ...{ severity: "advice", subject, found: unpinnedReason },
        means: "copies work, at a fraction of the speed",
        change: "leave the host more free memory than the memory tier's capacity",
      };
}

/** GB/s of each size of page. */
export function speedTable(speeds: readonly GpuSpeed[]): string[] {
  const sizes = [...new Set(speeds.map(({ pageBytes }) => pageBytes))];
  if (sizes.length === 0) return [];
  const cells = (pageBytes: number, pinned: boolean): string => {
    const speed = speeds.find((each) => each.pageBytes === pageBytes && each.pinned === pinned);
    const [gather, scatter] = [speed?.gatherBytesPerSecond ?? 0, speed?.scatterBytesPerSecond ?? 0];
    return `${gigabytes(gather)}${gigabytes(scatter)}`;
  };
  return [
    "GB/s       page-locked         other memory",
    "pages      gather   scatter    gather   scatter",
    ...sizes.map((size) => `${`${size / 1024} KiB`.padEnd(8)}${cells(size, true)} ${cells(size, false)}`),
  ];
}

function gigabytes(bytesPerSecond: number): string {
  return (bytesPerSecond / 1e9).toFixed(2).padStart(9);
}
