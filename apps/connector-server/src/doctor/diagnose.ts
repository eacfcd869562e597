import { type KvferryError, toKvferryError } from "@kvferry/core";
import { judgeFolder } from "./judge-folder.js";
import { type ProbeOptions, probeFolder } from "./probe-process.js";
import type { Diagnosis } from "./report.js";
import { suggestTier } from "./suggest-tier.js";

/** Probes a folder and says what it means. A folder that cannot be probed is a diagnosis too.
 * @throws KvferryError ABORTED */
export async function diagnoseFolder(options: ProbeOptions): Promise<Diagnosis> {
  const target = options.folder;
  try {
    const facts = await probeFolder(options);
    return { target, facts, findings: judgeFolder(facts), tier: suggestTier(facts) };
  } catch (thrown) {
    const error = toKvferryError(thrown, "doctor");
    if (error.code === "ABORTED") throw error;
    return { target, facts: undefined, findings: [failure(error)], tier: undefined };
  }
}

function failure({ code, message }: KvferryError): Diagnosis["findings"][number] {
  const hung = code === "DEADLINE";
  return {
    severity: "problem",
    subject: hung ? "it hangs" : "it cannot be used",
    found: message,
    means: hung ? "an engine would wait for it as long, but for the server's deadlines" : "nothing can be stored there",
    change: hung ? "see whether its server answers; `--timeout` gives it longer" : "mend what the message names",
  };
}
