import { describe, expect, it } from "vitest";
import { Toucher } from "../src/toucher.js";

const SOON = { timeout: 60_000 };

/** A server that takes its time; notes what it was asked for, and how many questions it had at once. */
function slowServer() {
  const seen = { folders: [] as string[][], atOnce: 0, atOnceMost: 0 };
  const files = {
    async stampFolders(folders: readonly string[]): Promise<BigInt64Array> {
      seen.folders.push([...folders]);
      seen.atOnceMost = Math.max(seen.atOnceMost, ++seen.atOnce);
      await new Promise((resolve) => setTimeout(resolve, 20));
      seen.atOnce--;
      return new BigInt64Array();
    },
  };
  return { files, seen };
}

describe("touching folders of a server that is slower than they come due", { timeout: 120_000 }, () => {
  it("waits for one time before the next, and touches each folder twice after its last block", async () => {
    const { files, seen } = slowServer();
    const toucher = new Toucher({ files, delayMs: 1 });
    let rounds = 0;
    for (; seen.folders.length < 5; rounds++) {
      toucher.touchLater(["aa", `b${rounds}`]);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    const asked = seen.folders.length;
    toucher.touchLater(["last"]);
    await expect.poll(() => seen.folders.filter((folders) => folders.includes("last")).length, SOON).toBe(2);
    await expect.poll(() => seen.atOnce, SOON).toBe(0);
    await toucher.close();
    expect(seen.atOnceMost).toBe(1);
    const all = seen.folders.flat();
    for (let i = 0; i < rounds; i++) expect(all.filter((folder) => folder === `b${i}`)).toHaveLength(2);
    expect(seen.folders.slice(asked).flat()).toContain("aa");
  });

  it("touches at its end what is due still", async () => {
    const { files, seen } = slowServer();
    const toucher = new Toucher({ files, delayMs: 1 });
    toucher.touchLater(["aa"]);
    await toucher.close();
    expect(seen.folders).toEqual([["aa"]]);
    expect(seen.atOnce).toBe(0);
  });
});
