// The same contract on every file system that can be had here.
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { conformance } from "@kvferry/testkit";
import { afterAll, beforeAll, describe, it } from "vitest";
import { OWN_FILE_SYSTEMS, type OwnMount } from "./own-file-systems.js";
import { posixFactory } from "./storage.js";

for (const { name, problem, fillable, mount } of OWN_FILE_SYSTEMS) {
  if (problem !== undefined) {
    describe.skip(`posix on ${name}: ${problem}`, () => it("is not run", () => {}));
    continue;
  }
  describe(name, () => {
    let mounted: OwnMount | undefined;
    beforeAll(async () => {
      mounted = await mount();
    });
    afterAll(() => mounted?.unmount());
    const within = () => mkdtempSync(join((mounted as OwnMount).folder, "kit-"));
    conformance({ name: `posix on ${name}`, test: { describe, it }, factory: posixFactory({ within, fillable }) });
  });
}
