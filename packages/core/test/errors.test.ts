import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { ERROR_CODES, type ErrorCode, errorCodeOf, errorNumber, KvferryError, toKvferryError } from "../src/index.js";

const codes = Object.keys(ERROR_CODES) as ErrorCode[];

describe("docs/errors.md", () => {
  const doc = readFileSync(new URL("../../../docs/errors.md", import.meta.url), "utf8");
  /** `| CODE | number | status | meaning | what to do |` */
  const rows = [...doc.matchAll(/^\| `([A-Z_]+)` \| (\d+) \| (\w+) \| (.+?) \| (.+?) \|$/gm)];

  it("has every code, with its number and status, and no other", () => {
    const documented = Object.fromEntries(
      rows.map(([, code, number, status]) => [code, { number: Number(number), status }]),
    );
    expect(documented).toEqual(ERROR_CODES);
    expect(rows).toHaveLength(codes.length);
  });

  it("says what each means and what to do", () => {
    for (const [, code, , , meaning, action] of rows) {
      expect(meaning?.length, `${code}: meaning`).toBeGreaterThan(20);
      expect(action?.length, `${code}: what to do`).toBeGreaterThan(20);
    }
  });
});

describe("error codes", () => {
  it("have numbers of their own that fit into a byte, and come back from them", () => {
    expect(new Set(codes.map(errorNumber)).size).toBe(codes.length);
    for (const code of codes) {
      expect(errorNumber(code)).toBeGreaterThan(0);
      expect(errorNumber(code)).toBeLessThan(256);
      expect(errorCodeOf(errorNumber(code))).toBe(code);
    }
  });

  it("of a newer peer are INTERNAL", () => {
    for (const number of [0, 200, 255, -1, 1e9]) expect(errorCodeOf(number)).toBe("INTERNAL");
  });
});

describe("a KvferryError", () => {
  it("made persistent keeps everything else", () => {
    const cause = new Error("socket");
    const error = new KvferryError("IO", "no answer", { operation: "load", context: { path: "/x" }, cause });
    expect(error).toMatchObject({ code: "IO", status: "temporary", name: "KvferryError" });
    const { code, message, operation, context, cause: kept, status } = error.asPersistent();
    expect({ code, message, operation, context, kept, status }).toEqual({
      ...{
        code: "IO",
        message: "no answer",
        operation: "load",
        context: { path: "/x" },
        kept: cause,
        status: "persistent",
      },
    });
  });

  it("is made of whatever was thrown", () => {
    const system = (code: string) => Object.assign(new Error(code), { code, path: "/p" });
    const expected = {
      ENOSPC: "NO_SPACE",
      EDQUOT: "NO_SPACE",
      EACCES: "PERMISSION",
      EROFS: "READ_ONLY",
      EIO: "IO",
      EMFILE: "TOO_MANY_FILES",
    };
    for (const [errno, code] of Object.entries({ ...expected, ESTALE: "STALE", ESOMETHING: "INTERNAL" })) {
      expect(toKvferryError(system(errno), "store")).toMatchObject({
        code,
        operation: "store",
        context: { path: "/p" },
      });
    }
    expect(toKvferryError(Object.assign(new Error("Unknown system error -116"), { errno: -116 }), "load").code).toBe(
      "STALE",
    );
    expect(toKvferryError(AbortSignal.abort().reason, "load").code).toBe("ABORTED");
    expect(toKvferryError(new DOMException("late", "TimeoutError"), "load").code).toBe("DEADLINE");
    for (const odd of [undefined, null, "text", 7]) expect(toKvferryError(odd, "load").code).toBe("INTERNAL");
    const own = new KvferryError("BUSY", "later");
    expect(toKvferryError(own, "load")).toBe(own);
  });
});
