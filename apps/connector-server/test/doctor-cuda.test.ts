// An operator asks whether direct mode can reach the GPUs: the answer has to be right on a machine without any, too. There is no GPU here: the driver is a stand-in.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeStandInCuda, type StandInCuda } from "../../../native/test/stand-in-cuda.js";
import type { GpuFacts } from "../src/doctor/cuda-facts.js";
import { judgeGpu, speedTable } from "../src/doctor/judge-cuda.js";
import { run } from "./child-server.js";
import { scratch } from "./helpers.js";

const TIMEOUT_MS = 240_000;
const good: GpuFacts = {
  ...{ name: "a GPU", uuid: "GPU-00", memoryBytes: 2 ** 36, numaNode: 1, batchedCopies: true },
  ...{ failure: undefined, checkedBytes: 2 ** 28, unpinnedReason: "", speeds: [] },
};

function severities(facts: Partial<GpuFacts>): Record<string, string> {
  const findings = judgeGpu({ ...good, ...facts }, "12.8").filter(({ severity }) => severity !== "fine");
  return Object.fromEntries(findings.map(({ subject, severity }) => [subject, severity]));
}

describe("what the doctor says of a GPU's facts", () => {
  it("is that of each fact", () => {
    expect(severities({})).toEqual({});
    expect(severities({ batchedCopies: false })).toEqual({ "batched copies": "advice" });
    expect(severities({ unpinnedReason: "no memory" })).toEqual({ "page-locked host memory": "advice" });
    expect(severities({ failure: { code: "CORRUPT", message: "other bytes" } })).toEqual({ copies: "problem" });
    expect(severities({ failure: { code: "DEVICE_FAILED", message: "no IPC" } })).toEqual({
      "shared memory": "problem",
    });
  });

  it("has a row for each size of page", () => {
    const speed = { gatherBytesPerSecond: 1e9, scatterBytesPerSecond: 25.5e9 };
    const table = speedTable([
      { pageBytes: 2048, pinned: true, ...speed },
      { pageBytes: 2048, pinned: false, ...speed },
      { pageBytes: 1 << 20, pinned: true, ...speed },
    ]);
    expect(table.slice(2)).toEqual([
      "2 KiB        1.00    25.50      1.00    25.50",
      "1024 KiB     1.00    25.50      0.00     0.00",
    ]);
  });
});

describe("kvferry doctor --cuda", { timeout: TIMEOUT_MS }, () => {
  let standIn: StandInCuda;
  beforeAll(async () => {
    standIn = await makeStandInCuda();
  }, TIMEOUT_MS);
  afterAll(() => standIn.remove());

  it("says plainly that there is no CUDA", async () => {
    const folder = scratch();
    writeFileSync(join(folder, "libcuda.so.1"), "no library"); // found first, also on a machine with a driver
    const { code, stdout } = await run(["doctor", "--cuda"], { LD_LIBRARY_PATH: folder });
    expect(stdout).toContain("✗ GPUs: no CUDA: ");
    expect(stdout).toContain("Verdict: do not use it as it is");
    expect(code).toBe(1);
  });

  it.each(["11.8", "13.0"] as const)("tries all GPUs of a stand-in for a driver of CUDA %s", async (version) => {
    const env = { ...standIn.env(version), KVFERRY_STAND_IN_CUDA_DELAY_US: "0" };
    const { code, stdout, stderr } = await run(["doctor", "--cuda", "--quick", "--json"], env);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const { diagnoses } = JSON.parse(stdout);
    expect(diagnoses).toHaveLength(2);
    for (const { target, facts } of diagnoses) {
      expect(target).toContain("kvferry stand-in, not a GPU");
      expect(facts).toMatchObject({
        version,
        batchedCopies: version === "13.0",
        checkedBytes: 2 ** 28,
        unpinnedReason: "",
      });
    }
  });

  it("measures, and prints a table", async () => {
    const env = { ...standIn.env("12.8"), KVFERRY_STAND_IN_CUDA_DELAY_US: "0", KVFERRY_STAND_IN_CUDA_DEVICES: "1" };
    const { code, stdout } = await run(["doctor", "--cuda"], env);
    expect({ code, stdout }).toMatchObject({ code: 0, stdout: expect.stringContaining("Verdict: works well") });
    for (const size of ["2 KiB", "8 KiB", "32 KiB", "128 KiB", "512 KiB", "1024 KiB"]) {
      expect(stdout).toMatch(new RegExp(`^ +${size} +([0-9]+\\.[0-9]{2} *){4}$`, "m"));
    }
  });

  it("finds GPUs that cannot be shared, and copies that are wrong", async () => {
    const failing = async (fault: string) => {
      const one = { KVFERRY_STAND_IN_CUDA_DEVICES: "1", KVFERRY_STAND_IN_CUDA_DELAY_US: "0" };
      const env = { ...standIn.env("12.8"), ...one, KVFERRY_STAND_IN_CUDA_FAIL: fault };
      const { code, stdout } = await run(["doctor", "--cuda", "--quick"], env);
      expect(code).toBe(1);
      return stdout;
    };
    expect(await failing("cuMemAlloc_v2:*=2")).toContain("shared memory: NO_SPACE: ");
    expect(await failing("cuIpcOpenMemHandle_v2:*=801")).toContain("cuIpcOpenMemHandle_v2: CUDA_ERROR_NOT_SUPPORTED");
    expect(await failing("run:500=700")).toContain("CUDA_ERROR_ILLEGAL_ADDRESS");
    expect(await failing("run:500=-1")).toContain("copies: ");
  });

  it("takes no places", async () => {
    const { code, stderr } = await run(["doctor", "--cuda", "/tmp"]);
    expect({ code, stderr }).toMatchObject({ code: 2, stderr: expect.stringContaining("--cuda") });
  });
});
