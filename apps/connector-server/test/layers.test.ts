import { createMemoryRegion, createNamespace, LookupState } from "@kvferry/core";
import { expect, it } from "vitest";
import { withTierLayers } from "../src/layers.js";
import { FailingBackend } from "./failing-backend.js";
import { BLOCK_BYTES, KEY_BYTES, namespace, randomKeys } from "./helpers.js";

it("a tier that has failed is asked again two seconds later, so that its blocks are hits soon after it is back", async () => {
  let nowMs = 0;
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const { backend, circuit } = withTierLayers(new FailingBackend("UNAVAILABLE"), { deadlineMs: 1000 });
  await backend.open({ namespace: createNamespace(namespace), keyBytes: KEY_BYTES, blockBytes: BLOCK_BYTES, clock });
  const keys = randomKeys(1);
  const store = () => backend.store({ keys, region: createMemoryRegion(1, BLOCK_BYTES), slots: Uint32Array.of(0) });
  for (let i = 0; circuit() !== "open"; i++) {
    expect(i).toBeLessThan(100);
    await store();
  }
  nowMs += 1990;
  await backend.lookup(keys);
  expect(circuit()).toBe("open");
  nowMs += 20;
  expect(await backend.lookup(keys)).toEqual(Uint8Array.of(LookupState.MISS));
  expect(circuit()).toBe("closed");
  await backend.close();
});
