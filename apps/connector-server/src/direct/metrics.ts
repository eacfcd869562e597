import { Counter, Gauge, type Registry } from "prom-client";
import type { DirectEngines } from "./engines.js";

/** Registers what direct mode counts; read when somebody asks. */
export function registerDirectMetrics(registry: Registry, engines: DirectEngines): void {
  const gauge = (name: string, help: string, read: () => number): void => {
    new Gauge({
      ...{ name: `kvferry_direct_${name}`, help, registers: [registry] },
      collect() {
        this.set(read());
      },
    });
  };
  const counter = (name: string, help: string, read: () => number): void => {
    new Counter({
      ...{ name: `kvferry_direct_${name}`, help, registers: [registry] },
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  };
  const sum = (field: "heldBlocks" | "heldBytes" | "tickets"): number =>
    engines.status.reduce((all, engine) => all + engine[field], 0);
  const { counts } = engines;

  gauge(
    "engines",
    "Engines in direct mode, those included whose holds outlive their connections.",
    () => engines.status.length,
  );
  gauge("held_blocks", "Blocks of the arena that engines hold, for each engine.", () => sum("heldBlocks"));
  gauge("held_bytes", "Bytes of the arena that engines hold, for each engine.", () => sum("heldBytes"));
  gauge("tickets", "Batches of chunks that are not stored yet, or that a worker has not come to.", () =>
    sum("tickets"),
  );
  gauge("staging_slots", "Slots of staging memory.", () => engines.stagingRows.all);
  gauge("staging_slots_used", "Slots of staging memory in use.", () => engines.stagingRows.used);
  counter("gathered_parts_total", "Parts of chunks copied from workers.", () => counts.gatheredParts);
  counter("gathered_bytes_total", "Bytes copied from workers.", () => counts.gatheredBytes);
  counter("scattered_parts_total", "Parts of chunks copied to workers.", () => counts.scatteredParts);
  counter("scattered_bytes_total", "Bytes copied to workers.", () => counts.scatteredBytes);
  counter("stored_blocks_total", "Chunks that were put together and stored.", () => counts.storedBlocks);
  counter("present_blocks_total", "Chunks that were not gathered because a tier has them.", () => counts.presentBlocks);
  registerLabelled(registry, engines);
}

function registerLabelled(registry: Registry, { counts }: DirectEngines): void {
  new Counter({
    name: "kvferry_direct_dropped_blocks_total",
    help: "Chunks that workers gathered and no tier has: no staging slot in time, a part missing or failed, not taken by the tiers.",
    labelNames: ["reason"] as const,
    registers: [registry],
    collect() {
      this.reset();
      for (const [reason, blocks] of counts.dropped) this.inc({ reason }, blocks);
    },
  });
  new Counter({
    name: "kvferry_direct_hold_blocks_total",
    help: "What became of blocks that schedulers wanted to hold, by where they were: in the arena, or in another tier.",
    labelNames: ["source", "outcome"] as const,
    registers: [registry],
    collect() {
      this.reset();
      for (const [name, blocks] of counts.held) {
        const [source, outcome] = name.split(" ") as [string, string];
        this.inc({ source, outcome }, blocks);
      }
    },
  });
}
