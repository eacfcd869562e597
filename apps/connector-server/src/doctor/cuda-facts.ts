/** What was seen of a GPU. Plain data: it comes from another process. */
export interface CudaFacts {
  /** What the driver supports: "12.8". */
  readonly version: string;
  readonly gpus: readonly GpuFacts[];
}

export interface GpuFacts {
  readonly name: string;
  /** "GPU-01234567-…", as nvidia-smi has it. */
  readonly uuid: string;
  readonly memoryBytes: number;
  readonly numaNode: number | undefined;
  readonly batchedCopies: boolean;
  /** What went wrong when its memory was shared with another process and copied; undefined: nothing. */
  readonly failure: { readonly code: string; readonly message: string } | undefined;
  /** Bytes that were scattered and gathered, and were right each time. */
  readonly checkedBytes: number;
  /** Why host memory could not be page-locked; "" if it was. */
  readonly unpinnedReason: string;
  readonly speeds: readonly GpuSpeed[];
}

export interface GpuSpeed {
  readonly pageBytes: number;
  /** Of host memory that is page-locked, or of other memory. */
  readonly pinned: boolean;
  readonly gatherBytesPerSecond: number;
  readonly scatterBytesPerSecond: number;
}

/** As nvidia-smi prints 16 bytes. */
export function uuidText(uuid: Uint8Array): string {
  const hex = Buffer.from(uuid).toString("hex");
  return `GPU-${[hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-")}`;
}
