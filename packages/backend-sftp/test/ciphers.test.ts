import { countOutcome, createMemoryRegion, Outcome } from "@kvferry/core";
import { expect, it } from "vitest";
import type { Sshd } from "../../../scripts/lib/sshd.mjs";
import { batchOf, filled, KEY_BYTES, namespaceOf, sameBytes } from "../../backend-s3/test/fixtures.js";
import { SftpBackend, type SftpConfig } from "../src/index.js";
import { Road } from "./road.js";
import { configOf, describeSshd } from "./server.js";
import { makeRoot } from "./storage.js";

// What is read from the network lies in memory that the next read takes: nothing may look at it afterwards, whatever encrypts it, also
// when keys are changed in the middle.

const IDS: readonly number[] = Array.from({ length: 24 }, (_, id) => id);
const ROUNDS = 3;

for (const cipher of ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"]) {
  describeSshd(
    `blocks over ${cipher}`,
    (server) => {
      it("come back whole, over one connection", () => storeAndLoad(server(), 700_000));

      it("come back whole where packets arrive torn", async () => {
        const { port } = server();
        const road = new Road(port);
        road.pieceBytes = 61;
        await road.open();
        try {
          await storeAndLoad(server(), 5000, { port: road.port });
        } finally {
          road.close();
        }
      });
    },
    { settings: [`Ciphers ${cipher}`, "RekeyLimit 4M"] },
  );
}

async function storeAndLoad(server: Sshd, blockBytes: number, more: Partial<SftpConfig> = {}): Promise<void> {
  const { root, remove } = await makeRoot();
  const backend = new SftpBackend(configOf(server, root, { connectionsMax: 1, ...more }));
  try {
    await backend.open({ namespace: namespaceOf("ciphers"), keyBytes: KEY_BYTES, blockBytes });
    const batch = batchOf(IDS, filled(IDS, blockBytes));
    expect(countOutcome(await backend.store(batch), Outcome.STORED)).toBe(IDS.length);
    for (let round = 0; round < ROUNDS; round++) {
      const region = createMemoryRegion(IDS.length, blockBytes);
      const result = await backend.load({ ...batch, region });
      expect(countOutcome(result, Outcome.LOADED)).toBe(IDS.length);
      expect(sameBytes(region.bytes, batch.region.bytes)).toBe(true);
    }
  } finally {
    await backend.close();
    await remove();
  }
}
