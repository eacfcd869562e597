import { writeFile } from "node:fs/promises";
import { KvferryError } from "@kvferry/core";
import { diagnoseFolder } from "../doctor/diagnose.js";
import { observe } from "../doctor/observer.js";
import { probeHere } from "../doctor/probe-process.js";
import { configText, type Diagnosis, diagnosisText, verdictOf } from "../doctor/report.js";
import { parseDuration } from "../sizes.js";
import type { TierConfig } from "../storage/tier-config.js";
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
  readonly timeout: string;
  /** What the processes that it starts itself are told. */
  readonly probe?: boolean;
  readonly observe?: boolean;
}

/** Fastest first, as a configuration has them. */
const ORDER: readonly TierConfig["backend"][] = ["memory", "nvme", "posix", "s3"];

/** Says what each place can do, what that means and what to change. Exit code 1 if one of them should not be used. */
export async function doctor(targets: readonly string[], flags: DoctorFlags): Promise<void> {
  const [first] = targets;
  if (flags.probe === true && first !== undefined) return probeHere(first, flags.observer);
  if (flags.observe === true && first !== undefined) return observe(first);
  const stepMsMax = parseDuration(flags.timeout);
  if (stepMsMax === undefined) throw usage("--timeout", `takes a time such as 45s or 2m, got '${flags.timeout}'`);
  const interrupt = onInterrupt();
  const diagnoses: Diagnosis[] = [];
  for (const folder of targets.length === 0 ? ["."] : targets) {
    const progress = new Progress(flags.json !== true);
    const onStep = (done: number, step: string): void => progress.show(folder, done, 100, step);
    const { signal } = interrupt;
    try {
      diagnoses.push(await diagnoseFolder({ folder, observer: flags.observer, stepMsMax, signal, onStep }));
    } catch (thrown) {
      if (!signal.aborted) throw thrown;
      break;
    } finally {
      progress.end();
    }
    if (flags.json !== true) process.stdout.write(`${diagnosisText(diagnoses.at(-1) as Diagnosis)}\n`);
  }
  const result = { kvferry: version, at: new Date().toISOString(), diagnoses };
  if (flags.json === true) process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
  if (flags.report !== undefined) await writeNew("--report", flags.report, `${JSON.stringify(result, null, 2)}\n`);
  if (flags.write !== undefined) await writeNew("--write", flags.write, configText(tiersOf(diagnoses)));
  const bad = diagnoses.some((diagnosis) => verdictOf(diagnosis) === "problem");
  process.exitCode = interrupt.code() ?? (bad ? EXIT_FAILED : 0);
}

function tiersOf(diagnoses: readonly Diagnosis[]): TierConfig[] {
  const tiers = diagnoses.flatMap(({ tier }) => (tier === undefined ? [] : [tier]));
  return tiers.sort((a, b) => ORDER.indexOf(a.backend) - ORDER.indexOf(b.backend));
}

/** Never over a file that is there. */
async function writeNew(flag: string, path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text, { flag: "wx", mode: 0o600 });
  } catch (cause) {
    const taken = (cause as NodeJS.ErrnoException).code === "EEXIST";
    throw usage(flag, taken ? `${path} is there already; name another file` : (cause as Error).message);
  }
}

function usage(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `${field}: ${reason}`, { operation: "config", context: { field } });
}
