import { describe, expect, it } from "vitest";
import { createNamespace, formatNamespaceRecord, parseNamespaceRecord } from "../src/index.js";

const namespace = createNamespace({
  ...{ model: "some/model", weights: "ab".repeat(32), dtype: "bfloat16", kvDtype: "auto", layout: "LBHNC" },
  ...{ tokensPerHash: 64, blocksPerChunk: 1, groups: [{ tokensPerBlock: 64, layers: ["l0"] }], parallel: null },
  ...{ engine: "vllm", engineVersion: "0.32.0", formatVersion: 1, tenant: "" },
});

describe("the record of a namespace", () => {
  it("tells tools that have no engine whose blocks they look at", () => {
    const text = formatNamespaceRecord({ namespace, keyBytes: 36, blockBytes: 4096 });
    expect(parseNamespaceRecord(text)).toEqual({ namespace, keyBytes: 36, blockBytes: 4096 });
  });

  it("is refused when it is damaged, or says another identity than its fields", () => {
    const text = formatNamespaceRecord({ namespace, keyBytes: 36, blockBytes: 4096 });
    for (const wrong of [
      "",
      "null",
      "[]",
      text.slice(0, -10),
      text.replace("some/model", "other/model"),
      text.replace('"keyBytes": 36', '"keyBytes": -1'),
      text.replace('"blockBytes": 4096', '"blockBytes": "4096"'),
      `${text}${" ".repeat(2 ** 20)}`,
    ]) {
      expect(() => parseNamespaceRecord(wrong), wrong.slice(0, 40)).toThrow(
        expect.objectContaining({ code: "INVALID_ARGUMENT" }),
      );
    }
  });
});
