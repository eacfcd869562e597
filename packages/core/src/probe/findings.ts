/** How much a finding matters. problem: it does not work, or loses blocks; advice: works, and could be better; fine: as it should be. */
export type Severity = "problem" | "advice" | "fine";

/** One thing that a probe found, in words for the person who runs the storage. */
export interface Finding {
  readonly severity: Severity;
  /** What it is about, in a word or two: "O_DIRECT", "mount option hard". */
  readonly subject: string;
  /** What was seen. */
  readonly found: string;
  /** What follows from it for kvferry. */
  readonly means: string;
  /** What to change; undefined where nothing needs to be. */
  readonly change?: string | undefined;
}

/** The worst of them. */
export function worstSeverity(findings: readonly Finding[]): Severity {
  if (findings.some(({ severity }) => severity === "problem")) return "problem";
  return findings.some(({ severity }) => severity === "advice") ? "advice" : "fine";
}
