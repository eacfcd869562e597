import { describe, expect, it } from "vitest";
import { PriorityGate } from "../src/index.js";

/** Tasks that end when they are told. */
function tasks(): { order: string[]; ends: (() => void)[]; task(name: string): () => Promise<void> } {
  const [order, ends]: [string[], (() => void)[]] = [[], []];
  const task = (name: string) => () =>
    new Promise<void>((done) => {
      order.push(name);
      ends.push(done);
    });
  return { order, ends, task };
}

describe("a gate with priorities", () => {
  it("keeps to its bounds, lets loads go first, and keeps a place from stores", async () => {
    const gate = new PriorityGate(4);
    const { order, ends, task } = tasks();
    const all = ["s0", "s1", "s2", "s3", "s4"].map((name) => gate.run("store", undefined, task(name)));
    expect(order).toEqual(["s0", "s1", "s2"]);
    all.push(...["l0", "l1"].map((name) => gate.run("load", undefined, task(name))));
    expect([...order, gate.running, gate.waiting]).toEqual(["s0", "s1", "s2", "l0", 4, 3]);
    ends.shift()?.();
    await expect.poll(() => order.at(-1)).toBe("l1");
    while (ends.length > 0 || gate.waiting > 0) {
      ends.shift()?.();
      await new Promise((done) => setImmediate(done));
      expect(gate.running).toBeLessThanOrEqual(4);
    }
    await Promise.all(all);
    expect([gate.running, gate.waiting, order.length]).toEqual([0, 0, 7]);
  });

  it("a wait ends with its signal, and takes no place; a task that has begun goes on and keeps its own", async () => {
    const gate = new PriorityGate(1);
    const { order, ends, task } = tasks();
    const controller = new AbortController();
    const first = gate.run("load", controller.signal, task("first"));
    const second = gate.run("load", controller.signal, task("second"));
    controller.abort(new Error("enough"));
    await expect(second).rejects.toThrow("enough");
    await expect(gate.run("load", controller.signal, task("third"))).rejects.toThrow("enough");
    expect([order, gate.running, gate.waiting]).toEqual([["first"], 1, 0]);
    ends[0]?.();
    await first;
    await expect(gate.run("store", undefined, () => Promise.reject(new Error("it failed")))).rejects.toThrow(
      "it failed",
    );
    expect(gate.running).toBe(0);
  });
});
