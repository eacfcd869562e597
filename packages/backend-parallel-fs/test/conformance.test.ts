import { conformanceCases } from "@kvferry/testkit";
import { afterAll, beforeAll, describe, it } from "vitest";
import { makeStandIn, missing, type StandIn } from "./stand-in.js";

interface Report {
  readonly name: string;
  readonly status: "passed" | "skipped" | "failed";
  readonly reason?: string;
  readonly error?: string;
}

const KINDS = {
  lustre: {},
  gpfs: { GPFS_BLOCK: "4194304", GPFS_SUBBLOCK: "8192", GPFS_FILESET: "kv" },
} as const;

/** The kit runs in child processes, as only those have the stand-in's calls; both at a time, as they mostly wait. */
describe.skipIf(missing !== undefined)(`stand-ins for Lustre and Storage Scale${missing ? `: ${missing}` : ""}`, () => {
  const standIns: StandIn[] = [];
  const reports = new Map<string, readonly Report[]>();
  beforeAll(async () => {
    const runs = Object.entries(KINDS).map(async ([kind, env]) => {
      const standIn = await makeStandIn({ kind: kind as keyof typeof KINDS, env });
      standIns.push(standIn);
      const args = { mount: standIn.mount, faults: standIn.env.STAND_IN_FAULTS };
      reports.set(kind, await standIn.run<Report[]>("child-kit.mjs", args));
    });
    await Promise.all(runs);
  }, 600_000);
  afterAll(() => Promise.all(standIns.map((each) => each.remove())));

  for (const kind of Object.keys(KINDS)) {
    describe(`a stand-in for ${kind}: conformance`, () => {
      for (const { name } of conformanceCases) {
        it(name, (context) => {
          const report = reports.get(kind)?.find((each) => each.name === name);
          if (report?.status === "skipped") context.skip(report.reason);
          if (report?.status !== "passed") throw new Error(report?.error ?? "was not run");
        });
      }
    });
  }
});
