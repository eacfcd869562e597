import type { Finding } from "@kvferry/core";

/** What child-backend.mjs prints. */
export interface ChildReport {
  readonly error?: { readonly code: string; readonly message: string; readonly context: Record<string, unknown> };
  readonly fileSystem?: "lustre" | "gpfs";
  readonly findings: readonly Finding[];
  readonly probe?: { readonly direct: boolean; readonly publish: "link" | "rename" };
  /** Of the namespace. */
  readonly digest: string;
  /** Outcomes, with their codes. */
  readonly stored: readonly string[];
  readonly loaded: readonly string[];
  /** Which of the loaded blocks have other bytes than were stored. */
  readonly wrong: readonly number[];
  readonly lines: readonly { readonly level: string; readonly text: string }[];
}

/** The finding about a subject. */
export function findingOf({ findings }: ChildReport, subject: string): Finding | undefined {
  return findings.find((each) => each.subject === subject);
}
