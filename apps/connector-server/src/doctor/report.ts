import type { Finding, Severity } from "@kvferry/core";
import { worstSeverity } from "@kvferry/core";
import { stringify } from "yaml";
import type { TierConfig } from "../storage/tier-config.js";

/** What the doctor says of one place. */
export interface Diagnosis {
  /** As it was asked for. */
  readonly target: string;
  /** All that was measured; undefined where nothing could be. */
  readonly facts: unknown;
  readonly findings: readonly Finding[];
  /** The tier that suits it; undefined where none does. */
  readonly tier: TierConfig | undefined;
  /** Lines for people, of what is too much for findings. */
  readonly table?: readonly string[];
}

const MARK: Readonly<Record<Severity, string>> = { problem: "✗", advice: "!", fine: "✓" };
const VERDICT: Readonly<Record<Severity, string>> = {
  problem: "do not use it as it is",
  advice: "works; see the advice above",
  fine: "works well",
};

export function verdictOf({ findings }: Diagnosis): Severity {
  return worstSeverity(findings);
}

/** For people. */
export function diagnosisText(diagnosis: Diagnosis): string {
  const lines = [diagnosis.target];
  for (const { severity, subject, found, means, change } of diagnosis.findings) {
    lines.push(`  ${MARK[severity]} ${subject}: ${found}`, `      ${means}`);
    if (change !== undefined) lines.push(`      → ${change}`);
  }
  lines.push(...(diagnosis.table ?? []).map((line) => `    ${line}`));
  lines.push(`  Verdict: ${VERDICT[verdictOf(diagnosis)]}`);
  if (diagnosis.tier !== undefined) {
    lines.push(
      "  Configuration:",
      ...configText([diagnosis.tier])
        .trimEnd()
        .split("\n")
        .map((line) => `    ${line}`),
    );
  }
  return `${lines.join("\n")}\n`;
}

/** A configuration file of these tiers, fastest first. */
export function configText(tiers: readonly TierConfig[]): string {
  return stringify({ tiers });
}
