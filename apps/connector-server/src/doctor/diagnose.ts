import { existsSync } from "node:fs";
import { probeS3, type S3Config } from "@kvferry/backend-s3";
import { type Finding, KvferryError, toKvferryError } from "@kvferry/core";
import type { S3TierConfig } from "../storage/tier-config.js";
import { judgeFolder } from "./judge-folder.js";
import { judgeS3 } from "./judge-s3.js";
import { type FolderProbeOptions, probeFolder } from "./probe-process.js";
import type { Diagnosis } from "./report.js";
import { suggestTier } from "./suggest-tier.js";

const S3 = "s3://";
/** What `kvferry copy` takes, and the doctor does not. */
const OTHER_PLACE = /^(s3|sftp|posix|nfs|parallel-fs|nvme):/;

export interface DiagnoseOptions extends Omit<FolderProbeOptions, "folder"> {
  /** A folder, or `s3://bucket/prefix`. */
  readonly target: string;
  /** Of S3. */
  readonly endpoint?: string | undefined;
  readonly region?: string | undefined;
}

/** Probes a place and says what it means. One that cannot be probed is a diagnosis too.
 * @throws KvferryError ABORTED */
export async function diagnose(options: DiagnoseOptions): Promise<Diagnosis> {
  const { target } = options;
  try {
    if (target.startsWith(S3)) return await diagnoseS3(options);
    if (OTHER_PLACE.test(target) && !existsSync(target)) throw notAPlace(target);
    return await diagnoseFolder(options);
  } catch (thrown) {
    if (options.signal?.aborted) throw new KvferryError("ABORTED", "interrupted", { operation: "doctor" });
    return { target, facts: undefined, findings: [failure(toKvferryError(thrown, "doctor"))], tier: undefined };
  }
}

function notAPlace(target: string): KvferryError {
  const words = target.startsWith("sftp:")
    ? "the doctor does not look at hosts over SFTP; `kvferry copy FOLDER sftp:… --dry-run` shows whether this one lets us in"
    : "the doctor takes folders by their paths, and s3://BUCKET/PREFIX";
  return new KvferryError("CONFIG_INVALID", words, { operation: "doctor", context: { field: "places", target } });
}

async function diagnoseFolder(options: DiagnoseOptions): Promise<Diagnosis> {
  const { target } = options;
  const { facts, own } = await probeFolder({ ...options, folder: target });
  return { target, facts, findings: judgeFolder(facts, own), tier: suggestTier(facts) };
}

async function diagnoseS3({ target, endpoint, region, signal, onStep }: DiagnoseOptions): Promise<Diagnosis> {
  const [bucket = "", ...names] = target.slice(S3.length).split("/");
  const prefix = names.filter((name) => name !== "").join("/");
  const config: S3Config = {
    bucket,
    ...(prefix === "" ? {} : { prefix }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
  };
  const facts = await probeS3(config, { signal, ...(onStep && { onStep }) });
  const tier: S3TierConfig = { backend: "s3", ...config };
  return { target, facts, findings: judgeS3(facts), tier };
}

function failure({ code, message }: KvferryError): Finding {
  const hung = code === "DEADLINE";
  return {
    severity: "problem",
    subject: hung ? "it hangs" : "it cannot be used",
    found: message,
    means: hung ? "an engine would wait for it as long, but for the server's deadlines" : "nothing can be stored there",
    change: hung ? "see whether its server answers; `--timeout` gives it longer" : "mend what the message names",
  };
}
