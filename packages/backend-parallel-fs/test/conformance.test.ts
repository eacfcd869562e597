import { conformanceCases } from "@kvferry/testkit";
import { afterAll, beforeAll, describe, it } from "vitest";
import { makeStandIn, missing, type StandIn } from "./stand-in.js";

interface Report {
  readonly name: string;
  readonly status: "passed" | "skipped" | "failed";
  readonly reason?: string;
  readonly error?: string;
}

/** The kit runs in a child process, as only that one has the stand-in's calls. */
function conformanceOn(kind: "lustre" | "gpfs", env: Record<string, string>): void {
  describe(`a stand-in for ${kind}: conformance`, () => {
    let standIn: StandIn;
    let reports: readonly Report[] = [];
    beforeAll(async () => {
      standIn = await makeStandIn({ kind, env });
      reports = await standIn.run("child-kit.mjs", { mount: standIn.mount, faults: standIn.env.STAND_IN_FAULTS });
    }, 180_000);
    afterAll(() => standIn?.remove());
    for (const { name } of conformanceCases) {
      it(name, (context) => {
        const report = reports.find((each) => each.name === name);
        if (report?.status === "skipped") context.skip(report.reason);
        if (report?.status !== "passed") throw new Error(report?.error ?? "was not run");
      });
    }
  });
}

if (missing === undefined) {
  conformanceOn("lustre", {});
  conformanceOn("gpfs", { GPFS_BLOCK: "4194304", GPFS_SUBBLOCK: "8192", GPFS_FILESET: "kv" });
} else {
  describe.skip(`stand-ins for Lustre and Storage Scale: ${missing}`, () => it("are not run", () => {}));
}
