import { createNamespace, type Namespace } from "../src/index.js";

/** For tests in which the identity of the bytes does not matter. */
export const namespace: Namespace = createNamespace({
  model: "m",
  weights: "00".repeat(32),
  dtype: "bfloat16",
  kvDtype: "auto",
  layout: "test",
  tokensPerHash: 16,
  blocksPerChunk: 1,
  groups: [{ tokensPerBlock: 16, layers: ["0"] }],
  parallel: null,
  engine: "test",
  engineVersion: "1",
  formatVersion: 1,
  tenant: "",
});
