import { MemoryBackend } from "@kvferry/core";
import { describe, expect, it } from "vitest";
import { conformanceCases, runConformance } from "../src/index.js";
import { wrongBackends } from "./wrong-backends.js";

describe("the suite finds", () => {
  it.each(wrongBackends)("a backend that $mistake", async ({ caughtBy, factory }) => {
    const reports = await runConformance({ factory, only: caughtBy, caseTimeoutMs: 4000 });
    expect(reports).toHaveLength(1);
    const [report] = reports;
    expect(report?.status, `"${report?.name}" must fail`).toBe("failed");
  });
});

describe("the suite says", () => {
  const factoryOf = (backend: () => MemoryBackend) => ({
    create: async () => ({ backend: backend(), cleanup: async () => {} }),
  });

  it("which hook is missing, where the manifest promises what it would show", async () => {
    const promising = wrongBackends.find(({ mistake }) => mistake.includes("without hooks"));
    const reports = await runConformance({ factory: promising?.factory as never, only: "flipped bit in its payload" });
    expect(reports[0]).toMatchObject({ status: "failed", error: { message: expect.stringContaining("damage.flip") } });
  });

  it("why a test was skipped", async () => {
    const reports = await runConformance({
      factory: factoryOf(() => new MemoryBackend()),
      only: "after the backend has been opened again",
    });
    expect(reports).toHaveLength(2);
    for (const report of reports)
      expect(report).toMatchObject({ status: "skipped", reason: "the manifest says durable: false" });
  });

  it("each name once", () => {
    const names = conformanceCases.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
  });

  it("that a test is not over, when a backend hangs", async () => {
    class Hangs extends MemoryBackend {
      protected override _load(): Promise<never> {
        return new Promise(() => {});
      }
    }
    const [report] = await runConformance({
      factory: factoryOf(() => new Hangs()),
      only: "a stored block comes back",
      caseTimeoutMs: 50,
    });
    expect(report).toMatchObject({
      status: "failed",
      error: { message: expect.stringContaining("not over after 50 ms") },
    });
  });
});
