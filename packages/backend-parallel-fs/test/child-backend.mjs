// Opens a backend in a stand-in's folder, stores blocks and loads them, and prints what came of it: child-backend.mjs JSON. Against the built packages.
import { ParallelFsBackend } from "@kvferry/backend-parallel-fs";
import { createMemoryRegion, createNamespace, outcomeCode, outcomeName, packKeys } from "@kvferry/core";

const KEY_BYTES = 36;
const { config, blockBytes = 65_536, blocks = 0, model = "m" } = JSON.parse(process.argv[2]);

const namespace = createNamespace({
  ...{ model, weights: "ab".repeat(32), dtype: "bfloat16", kvDtype: "bfloat16", layout: "test", tokensPerHash: 16 },
  ...{ blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["layer.0"] }], parallel: null },
  ...{ engine: "test", engineVersion: "1", formatVersion: 1, tenant: "" },
});
const lines = [];
const log = (level) => (facts, text) => lines.push({ level, text, ...facts });
const logger = { debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") };

const outcomes = (result) =>
  [...result.outcomes].map((each, i) => [outcomeName(each), outcomeCode(result, i)].filter(Boolean).join(" "));

async function moved(backend) {
  if (blocks === 0) return {};
  const key = (i) => Buffer.alloc(KEY_BYTES, i + 1);
  const keys = packKeys(Array.from({ length: blocks }, (_, i) => key(i)));
  const slots = Uint32Array.from({ length: blocks }, (_, i) => i);
  const region = createMemoryRegion(blocks, blockBytes);
  for (let i = 0; i < region.bytes.length; i += 1000) region.bytes[i] = i / 1000;
  const stored = outcomes(await backend.store({ keys, region, slots }));
  const target = createMemoryRegion(blocks, blockBytes);
  const result = await backend.load({ keys, region: target, slots });
  const wrong = [...slots].filter((i) => {
    const row = (of) => of.bytes.subarray(i * blockBytes, (i + 1) * blockBytes);
    return outcomeName(result.outcomes[i]) === "LOADED" && Buffer.compare(row(region), row(target)) !== 0;
  });
  return { stored, loaded: outcomes(result), wrong };
}

let report;
try {
  const backend = new ParallelFsBackend(config);
  await backend.open({ namespace, keyBytes: KEY_BYTES, blockBytes, logger });
  const { findings, fileSystem, probe } = backend;
  report = { findings, fileSystem, probe, digest: namespace.digestHex, ...(await moved(backend)) };
  await backend.close();
} catch (thrown) {
  report = { error: { code: thrown.code, message: thrown.message, context: thrown.context } };
}
process.stdout.write(JSON.stringify({ ...report, lines }));
process.exit(0); // a command that hangs is not waited for
