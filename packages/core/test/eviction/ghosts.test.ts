import { describe, expect, it } from "vitest";
import { GHOST_USES_MAX, Ghosts } from "../../src/eviction/ghosts.js";

const hashOf = (i: number): number => Math.imul(i + 1, 0x9e3779b1) >>> 0;

describe("ghosts", () => {
  it("remember nearly all of the last blocks, with their uses", () => {
    const ghosts = new Ghosts(10_000, 1);
    for (let i = 0; i < 50_000; i++) ghosts.add(hashOf(i), i % 10);
    let known = 0;
    for (let i = 41_000; i < 50_000; i++) {
      const uses = ghosts.take(hashOf(i));
      if (uses === -1) continue;
      known++;
      expect(uses).toBe(Math.min(i % 10, GHOST_USES_MAX));
      expect(ghosts.take(hashOf(i))).toBe(-1);
    }
    // those that share a place push each other out
    expect(known / 9000).toBeGreaterThan(0.6);
  });

  it("do not know what has gone long ago, or was never there", () => {
    const ghosts = new Ghosts(1000, 1);
    for (let i = 0; i < 20_000; i++) ghosts.add(hashOf(i), 1);
    let known = 0;
    for (let i = 0; i < 18_900; i++) if (ghosts.take(hashOf(i)) !== -1) known++;
    for (let i = 50_000; i < 150_000; i++) if (ghosts.take(hashOf(i)) !== -1) known++;
    expect(known).toBeLessThan(20);
  });

  it("take five bytes for each that they may remember", () => {
    expect(new Ghosts(1_000_000, 1).memoryBytes).toBe(5_000_000);
  });
});
