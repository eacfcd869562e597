import { CaseKit, type ConformanceCase, SkipCase } from "./case.js";
import { batchCases } from "./cases/batches.js";
import { cancelCases } from "./cases/cancel.js";
import { concurrencyCases } from "./cases/concurrency.js";
import { damageCases } from "./cases/damage.js";
import { inventoryCases } from "./cases/inventory.js";
import { keyCases } from "./cases/keys.js";
import { lifecycleCases } from "./cases/lifecycle.js";
import { lookupCases } from "./cases/lookups.js";
import { persistenceCases } from "./cases/persistence.js";
import type { BackendFactory } from "./factory.js";

/** Every test of the kit, in the order in which they run. */
export const conformanceCases: readonly ConformanceCase[] = Object.freeze([
  ...lifecycleCases,
  ...batchCases,
  ...keyCases,
  ...lookupCases,
  ...concurrencyCases,
  ...cancelCases,
  ...persistenceCases,
  ...inventoryCases,
  ...damageCases,
]);

/** The functions of the caller's test runner: those of vitest and of node:test fit as they are. The body gets what the runner passes
 * (vitest's and node's test context); its `skip(reason)` marks a test that had nothing to test. */
export interface TestFunctions {
  describe(name: string, body: () => void): unknown;
  it(name: string, body: (context: TestContext) => Promise<void>, timeoutMs: number): unknown;
}

/** The part of a runner's test context that is used. */
export interface TestContext {
  skip?: unknown;
}

export interface ConformanceOptions {
  /** Heads the report: the backend and what is special about this run. */
  readonly name: string;
  readonly test: TestFunctions;
  readonly factory: BackendFactory;
  /** Ms that one test may take; default 20,000. For slow storage. */
  readonly caseTimeoutMs?: number;
}

export interface RunOptions {
  readonly factory: BackendFactory;
  /** Only tests whose name contains it. */
  readonly only?: string;
  readonly caseTimeoutMs?: number;
}

/** How one test has ended. */
export type CaseReport =
  | { readonly name: string; readonly status: "passed" }
  | { readonly name: string; readonly status: "skipped"; readonly reason: string }
  | { readonly name: string; readonly status: "failed"; readonly error: unknown };

const CASE_TIMEOUT_MS = 20_000;

/** Registers the whole suite with a test runner:
 * `conformance({ name: "mine", test: { describe, it }, factory: { create } })`. */
export function conformance({ name, test, factory, caseTimeoutMs = CASE_TIMEOUT_MS }: ConformanceOptions): void {
  test.describe(`${name}: conformance`, () => {
    for (const each of conformanceCases) {
      const body = async (context?: TestContext): Promise<void> => {
        const report = await runCase(each, factory, caseTimeoutMs);
        if (report.status === "failed") throw report.error;
        if (report.status === "skipped" && typeof context?.skip === "function") context.skip(report.reason);
      };
      test.it(each.name, body, caseTimeoutMs + 1000);
    }
  });
}

/** Runs the suite without a test runner, one test after the other. */
export async function runConformance({
  factory,
  only = "",
  caseTimeoutMs = CASE_TIMEOUT_MS,
}: RunOptions): Promise<CaseReport[]> {
  const reports: CaseReport[] = [];
  for (const each of conformanceCases) {
    if (each.name.includes(only)) reports.push(await runCase(each, factory, caseTimeoutMs));
  }
  return reports;
}

async function runCase(each: ConformanceCase, factory: BackendFactory, timeoutMs: number): Promise<CaseReport> {
  const { name } = each;
  const kit = new CaseKit(factory);
  let timer: NodeJS.Timeout | undefined;
  // a test that hangs is left as it is: its backend cannot be closed, or it would not hang
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not over after ${timeoutMs} ms`)), timeoutMs);
  });
  try {
    await Promise.race([runAndEnd(each, kit), late]);
    return { name, status: "passed" };
  } catch (error) {
    if (error instanceof SkipCase) return { name, status: "skipped", reason: error.message };
    return { name, status: "failed", error };
  } finally {
    clearTimeout(timer);
  }
}

async function runAndEnd(each: ConformanceCase, kit: CaseKit): Promise<void> {
  try {
    if (each.needs !== undefined) {
      const { capabilities } = (await kit.create()).backend.manifest;
      if (!capabilities[each.needs]) kit.skip(`the manifest says ${each.needs}: false`);
    }
    await each.run(kit);
  } catch (thrown) {
    await kit.end().catch(() => {}); // the test's own error is the one that explains
    throw thrown;
  }
  await kit.end();
}
