import { describe, expect, it } from "vitest";
import { SegmentState, SegmentTable } from "../src/segment-table.js";

/** Segments with these facts, sealed unless a state is given. */
function tableOf(
  facts: { sequence: number; blocks: number; tombstones?: boolean; state?: SegmentState }[],
): SegmentTable {
  const table = new SegmentTable(facts.length + 2);
  for (const { sequence, blocks, tombstones, state } of facts) {
    const segment = table.takeFree() as number;
    table.begin(segment, { epoch: sequence, sequence, usedBytes: 4096 });
    table.state[segment] = state ?? SegmentState.SEALED;
    for (let row = 0; row < blocks; row++) table.addEntry(segment, 0, row, row);
    table.hasTombstones[segment] = tombstones ? 1 : 0;
  }
  return table;
}

describe("the segment that is given up next", () => {
  it("is the oldest, unless one is empty, which costs nobody a block", () => {
    expect(
      tableOf([
        { sequence: 5, blocks: 1 },
        { sequence: 3, blocks: 9 },
        { sequence: 4, blocks: 1 },
      ]).victim(),
    ).toBe(1);
    expect(
      tableOf([
        { sequence: 5, blocks: 1 },
        { sequence: 3, blocks: 9 },
        { sequence: 9, blocks: 0 },
      ]).victim(),
    ).toBe(2);
  });

  it("is none that takes records, is being sealed, or is being given up already", () => {
    const { OPEN, SEALING, EVICTING } = SegmentState;
    const table = tableOf([OPEN, SEALING, EVICTING].map((state) => ({ sequence: 1, blocks: 0, state })));
    expect(table.victim()).toBeUndefined();
  });

  it("is none with tombstones while an older one may hold what they say was removed, or a restart would bring it back", () => {
    const older = { sequence: 1, blocks: 1 };
    const empty = { sequence: 2, blocks: 0, tombstones: true };
    expect(tableOf([older, empty]).victim()).toBe(0);
    expect(tableOf([{ ...older, state: SegmentState.SEALING }, empty]).victim()).toBeUndefined();
    expect(tableOf([empty, { sequence: 3, blocks: 1 }]).victim()).toBe(0);
  });
});
