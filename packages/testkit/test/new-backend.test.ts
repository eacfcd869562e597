import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterAll, describe, expect, it } from "vitest";

const root = resolve(import.meta.dirname, "../../..");
const script = join(root, "scripts/new-backend.mjs");
// Within the repository, so that the new package finds its dependencies and base configuration; ignored by git.
const into = join(root, ".cache");
const name = `acme-store-${process.pid}`;
const folder = join(into, `backend-${name}`);

interface Ended {
  readonly code: number;
  readonly output: string;
}

function run(args: readonly string[], cwd: string = root): Promise<Ended> {
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([key]) => !/^VITEST|^NODE_OPTIONS|^NODE_ENV/.test(key)),
  );
  return new Promise((done) => {
    execFile(process.execPath, args, { cwd, env }, (error, stdout, stderr) => {
      done({ code: typeof error?.code === "number" ? error.code : error === null ? 0 : 1, output: stdout + stderr });
    });
  });
}

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("npm run new:backend", () => {
  it("makes a package that passes its tests, and type check as it is", async () => {
    mkdirSync(into, { recursive: true });
    const made = await run([script, name, "--into", into]);
    expect(made).toMatchObject({
      code: 0,
      output: expect.stringContaining(`npx vitest run --project backend-${name}`),
    });

    const text = readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => readFileSync(join(entry.parentPath, entry.name), "utf8"))
      .join("\n");
    expect(text).not.toMatch(/my-?storage/i);
    const core = JSON.parse(readFileSync(join(root, "packages/core/package.json"), "utf8"));
    expect(JSON.parse(readFileSync(join(folder, "package.json"), "utf8"))).toMatchObject({
      name: `@kvferry/backend-${name}`,
      version: core.version,
      dependencies: { "@kvferry/core": `^${core.version}` },
    });
    expect(readFileSync(join(folder, "README.md"), "utf8").split("\n").length).toBeLessThan(15);

    const conditions = `["kvferry-source", "module", "node", "development|production"]`;
    const config = join(folder, "vitest.config.mjs");
    writeFileSync(
      config,
      `export default { resolve: { conditions: ${conditions} }, ssr: { resolve: { conditions: ${conditions} } } };\n`,
    );
    const tests = await run([
      join(root, "node_modules/vitest/vitest.mjs"),
      "run",
      "--root",
      folder,
      "--config",
      config,
    ]);
    rmSync(config);
    expect(tests.output).toMatch(/Tests\s+.*passed/);
    expect(tests).toMatchObject({ code: 0 });

    const types = await run([join(root, "node_modules/typescript/bin/tsc"), "-p", folder]);
    expect(types).toEqual({ code: 0, output: "" });
  }, 120_000);

  it("does not overwrite, and leaves what is there as it was", async () => {
    const existing = join(into, `backend-there-${process.pid}`);
    mkdirSync(existing, { recursive: true });
    writeFileSync(join(existing, "mine.txt"), "mine");
    try {
      const again = await run([script, `there-${process.pid}`, "--into", into]);
      expect(again).toMatchObject({ code: 2, output: expect.stringContaining("exists already") });
      expect(readdirSync(existing)).toEqual(["mine.txt"]);
    } finally {
      rmSync(existing, { recursive: true });
    }
  }, 60_000);

  it("refuses names that cannot be a package's, and says how they look", async () => {
    const wrong = [
      "Acme",
      "acme_store",
      "-acme",
      "acme-",
      "a--b",
      "../acme",
      "1acme",
      "backend-acme",
      "",
      "a".repeat(41),
    ];
    for (const refused of await Promise.all(wrong.map((each) => run([script, each, "--into", into])))) {
      expect(refused).toMatchObject({ code: 2, output: expect.stringContaining("Example: npm run new:backend") });
    }
    expect((await run([script])).output).toContain("NAME is missing");
    expect((await run([script, "a", "b"])).code).toBe(2);
    expect(existsSync(join(into, "acme"))).toBe(false);
  }, 60_000);

  it("explains itself", async () => {
    const help = await run([script, "--help"]);
    expect(help).toMatchObject({ code: 0, output: expect.stringContaining("Usage: npm run new:backend NAME") });
  }, 60_000);
});
