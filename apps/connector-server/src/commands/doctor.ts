import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { ownCudaMemory } from "../doctor/cuda-memory.js";
import { diagnose } from "../doctor/diagnose.js";
import { CUDA, diagnoseCuda, probeCudaHere } from "../doctor/diagnose-cuda.js";
import { observe } from "../doctor/observer.js";
import { probeHere } from "../doctor/probe-process.js";
import { configText, type Diagnosis, diagnosisText, verdictOf } from "../doctor/report.js";
import { parseDuration } from "../sizes.js";
import { invalid, type TierConfig } from "../storage/tier-config.js";
import { version } from "../version.js";
import { EXIT_FAILED } from "./exit-codes.js";
import { onInterrupt } from "./interrupt.js";
import { Progress } from "./progress.js";

export interface DoctorFlags {
  readonly json?: boolean;
  /** File for the configuration. */
  readonly write?: string;
  /** File for all that was measured. */
  readonly report?: string;
  /** A shell command. */
  readonly observer?: string;
  /** Of S3. */
  readonly endpoint?: string;
  readonly region?: string;
  readonly timeout: string;
  readonly quick?: boolean;
  /** GPUs rather than places. */
  readonly cuda?: boolean;
  /** What the processes that it starts itself are told. */
  readonly probe?: boolean;
  readonly observe?: boolean;
  readonly cudaProbe?: boolean;
  readonly cudaMemory?: boolean;
}

/** Fastest first, as a configuration has them. */
const ORDER: readonly TierConfig["backend"][] = ["memory", "nvme", "posix", "nfs", "parallel-fs", "s3", "sftp"];

/** Says what each place can do, what that means and what to change. Exit code 1 if one of them should not be used. */
export async function doctor(targets: readonly string[], flags: DoctorFlags): Promise<void> {
  const [first, second] = targets;
  if (flags.cudaProbe === true) return probeCudaHere(flags.quick === true);
  if (flags.cudaMemory === true && first !== undefined) return ownCudaMemory(first, Number(second));
  if (flags.probe === true && first !== undefined) return probeHere(first, flags.quick === true, flags.observer);
  if (flags.observe === true && first !== undefined) return observe(first);
  const stepMsMax = parseDuration(flags.timeout);
  if (stepMsMax === undefined) throw invalid("--timeout", `takes a time such as 45s or 2m, got '${flags.timeout}'`);
  refuseTaken("--report", flags.report);
  refuseTaken("--write", flags.write);
  const interrupt = onInterrupt();
  const diagnoses = await diagnoseAll(targets, flags, stepMsMax, interrupt.signal);
  const result = { kvferry: version, at: new Date().toISOString(), diagnoses };
  if (flags.json === true) process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  if (flags.report !== undefined) await writeNew("--report", flags.report, `${JSON.stringify(result, null, 2)}\n`);
  if (flags.write !== undefined) await writeNew("--write", flags.write, configText(tiersOf(diagnoses)));
  const bad = diagnoses.some((diagnosis) => verdictOf(diagnosis) === "problem");
  process.exitCode = interrupt.code() ?? (bad ? EXIT_FAILED : 0);
}

/** Of what was asked about, until the interrupt. */
async function diagnoseAll(
  targets: readonly string[],
  flags: DoctorFlags,
  stepMsMax: number,
  signal: AbortSignal,
): Promise<Diagnosis[]> {
  if (flags.cuda === true && targets.length > 0) throw invalid("--cuda", "is about GPUs: leave the places out");
  const { observer, endpoint, region, quick } = flags;
  const places = targets.length === 0 ? ["."] : targets;
  const diagnoses: Diagnosis[] = [];
  for (const target of flags.cuda === true ? [CUDA] : places) {
    const progress = new Progress(flags.json !== true);
    const onStep = (done: number, step: string): void => progress.show(target, done, 100, step);
    const found: Diagnosis[] = [];
    try {
      if (flags.cuda === true) found.push(...(await diagnoseCuda({ quick, stepMsMax, signal, onStep })));
      else found.push(await diagnose({ target, observer, quick, endpoint, region, stepMsMax, signal, onStep }));
    } catch (thrown) {
      if (!signal.aborted) throw thrown;
      break;
    } finally {
      progress.end();
    }
    diagnoses.push(...found);
    if (flags.json !== true) for (const each of found) process.stdout.write(`${diagnosisText(each)}\n`);
  }
  return diagnoses;
}

function tiersOf(diagnoses: readonly Diagnosis[]): TierConfig[] {
  const tiers = diagnoses.flatMap(({ tier }) => (tier === undefined ? [] : [tier]));
  return tiers.sort((a, b) => ORDER.indexOf(a.backend) - ORDER.indexOf(b.backend));
}

/** Before the long work rather than after it. */
function refuseTaken(flag: string, path: string | undefined): void {
  if (path !== undefined && existsSync(path)) throw invalid(flag, `${path} is there already; name another file`);
}

async function writeNew(flag: string, path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text, { flag: "wx", mode: 0o600 });
  } catch (cause) {
    throw invalid(flag, (cause as Error).message);
  }
}
