import assert from "node:assert/strict";
import { CAPABILITY_NAMES, Outcome } from "@kvferry/core";
import {
  assertOutcomes,
  assertRejects,
  Bench,
  contextOf,
  freshNamespace,
  isUntouched,
  numbers,
  SENTINEL,
  sleep,
} from "../bench.js";
import type { ConformanceCase } from "../case.js";

async function assertRefuses(bench: Bench, code: string, why: string): Promise<void> {
  const { backend } = bench;
  const { capabilities } = backend.manifest;
  const batch = bench.filled([1]);
  await assertRejects(() => backend.lookup(batch.keys), code, `lookup ${why}`);
  await assertRejects(() => backend.store(batch), code, `store ${why}`);
  await assertRejects(() => backend.load(batch), code, `load ${why}`);
  if (capabilities.remove) await assertRejects(() => backend.remove(batch.keys), code, `remove ${why}`);
  if (capabilities.usage) await assertRejects(() => backend.usage(), code, `usage ${why}`);
  if (capabilities.scan) await assertRejects(() => backend.scan(), code, `scan ${why}`);
}

/** Opening, closing, and what a backend says of itself. */
export const lifecycleCases: readonly ConformanceCase[] = [
  {
    name: "the manifest is frozen data, the same for every instance",
    async run(kit) {
      const { manifest } = (await kit.create()).backend;
      assert.ok(
        Object.isFrozen(manifest) && Object.isFrozen(manifest.capabilities) && Object.isFrozen(manifest.limits),
      );
      assert.match(manifest.name, /^[a-z][a-z0-9-]*$/, "the name is lower-case");
      for (const name of CAPABILITY_NAMES) assert.equal(typeof manifest.capabilities[name], "boolean", name);
      assert.deepEqual((await kit.create()).backend.manifest, manifest);
    },
  },
  {
    name: "what the manifest does not promise is refused as UNSUPPORTED",
    async run(kit) {
      const { backend, keys } = await kit.setup().then((bench) => ({ backend: bench.backend, keys: bench.keys([1]) }));
      const { capabilities } = backend.manifest;
      if (!capabilities.remove) await assertRejects(() => backend.remove(keys), "UNSUPPORTED", "remove");
      if (!capabilities.usage) await assertRejects(() => backend.usage(), "UNSUPPORTED", "usage");
      if (!capabilities.scan) await assertRejects(() => backend.scan(), "UNSUPPORTED", "scan");
    },
  },
  {
    name: "calls before open are refused as NOT_OPEN",
    async run(kit) {
      const created = await kit.create();
      const { blockBytesMin, keyBytesMax } = created.backend.manifest.limits;
      const bench = new Bench(created, created.backend, freshNamespace(), blockBytesMin, keyBytesMax);
      await assertRefuses(bench, "NOT_OPEN", "before open");
    },
  },
  {
    name: "calls after close are refused as CLOSED",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      await bench.backend.close();
      await assertRefuses(bench, "CLOSED", "after close");
    },
  },
  {
    name: "closing twice, or at the same time, or without opening, is no error",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore([1]);
      await Promise.all([bench.backend.close(), bench.backend.close()]);
      await bench.backend.close();
      const { backend } = await kit.create();
      await backend.close();
      assert.equal(backend.state, "closed");
    },
  },
  {
    name: "open is refused for sizes beyond the limits, and a second time",
    async run(kit) {
      const { limits } = (await kit.create()).backend.manifest;
      const namespace = freshNamespace();
      const wrong: readonly (readonly [number, number])[] = [
        [limits.blockBytesMin - 1, limits.keyBytesMax],
        [limits.blockBytesMax + 1, limits.keyBytesMax],
        [limits.blockBytesMin + 0.5, limits.keyBytesMax],
        [limits.blockBytesMin, 4],
        [limits.blockBytesMin, limits.keyBytesMax + 1],
      ];
      for (const [blockBytes, keyBytes] of wrong) {
        const { backend } = await kit.create();
        const open = () => backend.open(contextOf(namespace, blockBytes, keyBytes));
        await assertRejects(
          open,
          "INVALID_ARGUMENT",
          `open with blocks of ${blockBytes} and keys of ${keyBytes} bytes`,
        );
      }
      const bench = await kit.setup();
      const again = () => bench.backend.open(contextOf(namespace, bench.blockBytes, bench.keyBytes));
      await assertRejects(again, "INVALID_ARGUMENT", "a second open");
      await bench.mustStore([1]);
    },
  },
  {
    name: "open ends with ABORTED when its signal is aborted, and the instance is closed",
    async run(kit) {
      const { backend } = await kit.create();
      const { blockBytesMin, keyBytesMax } = backend.manifest.limits;
      const context = { ...contextOf(freshNamespace(), blockBytesMin, keyBytesMax), signal: AbortSignal.abort() };
      await assertRejects(() => backend.open(context), "ABORTED", "open");
      assert.equal(backend.state, "closed");
    },
  },
  {
    name: "close while calls are under way lets them finish, and is over when it says so",
    async run(kit) {
      const bench = await kit.setup();
      const ids = numbers(64);
      await bench.mustStore(ids);
      const loads = numbers(4).map(() => bench.load(ids));
      const storing = bench.store(numbers(16, 1000));
      const closing = bench.backend.close();
      await assertRejects(() => bench.load(ids), "CLOSED", "load while closing");
      await closing;
      assert.equal(bench.backend.inFlight, 0, "calls are under way after close");
      for (const loaded of await Promise.all(loads)) {
        assertOutcomes(
          loaded.result,
          ids.map(() => Outcome.LOADED),
          "load under way when close was called",
        );
        bench.assertLoadedContents(loaded, ids, "load under way when close was called");
        loaded.region.bytes.fill(SENTINEL);
        await sleep(10);
        assert.ok(isUntouched(loaded.region), "a slot was written after close");
      }
      assertOutcomes(
        await storing,
        numbers(16).map(() => Outcome.STORED),
        "store under way when close was called",
      );
    },
  },
  {
    name: "a reader that pauses in a scan does not hold up close, and hears of it",
    needs: "scan",
    async run(kit) {
      const bench = await kit.setup();
      await bench.mustStore(numbers(8));
      const pages = bench.backend.scan({ pageEntriesMax: 2 });
      await pages.next();
      await bench.backend.close();
      await assertRejects(() => pages.next(), "CLOSED", "the next page after close");
    },
  },
];
