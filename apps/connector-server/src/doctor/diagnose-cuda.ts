import { KvferryError, toKvferryError } from "@kvferry/core";
import type { CudaFacts } from "./cuda-facts.js";
import { cudaFailure, judgeGpu, speedTable } from "./judge-cuda.js";
import { measureCuda } from "./measure-cuda.js";
import type { Diagnosis } from "./report.js";
import { answerProbe, type ProbeOptions, runProbe } from "./run-probe.js";

/** What diagnoses of a machine without GPUs name. */
export const CUDA = "CUDA";

export interface DiagnoseCudaOptions extends ProbeOptions {
  /** Leaves the speeds out. */
  readonly quick?: boolean | undefined;
}

/** One diagnosis of each GPU; one that says so where there are none. @throws KvferryError ABORTED */
export async function diagnoseCuda(options: DiagnoseCudaOptions): Promise<Diagnosis[]> {
  try {
    const quick = options.quick === true ? ["--quick"] : [];
    const { facts } = (await runProbe(CUDA, ["--cuda-probe", ...quick], options)) as unknown as { facts: CudaFacts };
    if (facts.gpus.length === 0) {
      const found = `the driver (CUDA ${facts.version}) shows no GPU to this process`;
      return [none(facts, found, "see what `nvidia-smi -L` says here, and CUDA_VISIBLE_DEVICES")];
    }
    return facts.gpus.map((gpu) => ({
      target: `${gpu.name} (${gpu.uuid})`,
      facts: { version: facts.version, ...gpu },
      findings: judgeGpu(gpu, facts.version),
      tier: undefined,
      table: speedTable(gpu.speeds),
    }));
  } catch (thrown) {
    if (options.signal?.aborted) throw new KvferryError("ABORTED", "interrupted", { operation: "doctor" });
    const { code, message } = toKvferryError(thrown, "doctor");
    if (code === "UNSUPPORTED") return [none(undefined, message, "nothing, where engines run on CPUs or in tier mode")];
    return [{ target: CUDA, facts: undefined, findings: [cudaFailure({ code, message })], tier: undefined }];
  }
}

function none(facts: CudaFacts | undefined, found: string, change: string): Diagnosis {
  const means = "direct mode cannot reach GPUs from here; tier mode does without";
  const finding = { severity: "problem" as const, subject: "GPUs", found, means, change };
  return { target: CUDA, facts, findings: [finding], tier: undefined };
}

/** What the process of its own does. */
export function probeCudaHere(quick: boolean): Promise<void> {
  return answerProbe(async (onStep) => ({ facts: await measureCuda({ quick, onStep }) }));
}
