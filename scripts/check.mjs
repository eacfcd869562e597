// Everything that can be said about the sources without running them: types, lint, unused code, and whether the
// tarballs that npm would publish can be imported by others. One line a check; the output of the failed ones only.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(fileURLToPath(import.meta.url), "../..");
const env = { ...process.env, TURBO_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1" };

function run(command, args, cwd = root) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
    const output = [];
    child.stdout.on("data", (data) => output.push(data));
    child.stderr.on("data", (data) => output.push(data));
    child.on("error", (error) => done({ ok: false, output: String(error) }));
    child.on("close", (code) => done({ ok: code === 0, output: Buffer.concat(output).toString() }));
  });
}

async function check(name, action) {
  const start = performance.now();
  const { ok, output } = await action();
  console.log(`${ok ? "ok  " : "FAIL"} ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  if (!ok) console.log(output.trimEnd().replace(/^/gm, "     "));
  return ok;
}

/** Folders of the workspaces that npm would publish. */
function publishable() {
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  return manifest.workspaces
    .flatMap((entry) =>
      entry.endsWith("/*")
        ? readdirSync(join(root, entry.slice(0, -2))).map((name) => join(root, entry.slice(0, -2), name))
        : [join(root, entry)],
    )
    .filter((folder) => existsSync(join(folder, "package.json")))
    .map((folder) => ({ folder, manifest: JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) }))
    .filter(({ manifest }) => !manifest.private);
}

const results = [];
const bin = (name) => join(root, "node_modules/.bin", name);

results.push(await check("lockfile", () => run(process.execPath, ["scripts/complete-lockfile.mjs", "--check"])));
results.push(await check("build", () => run("npm", ["run", "--silent", "build"])));
results.push(await check("types", () => run("npm", ["run", "--silent", "types"])));
results.push(await check("types of scripts and configs", () => run(bin("tsc"), ["-p", "tsconfig.json"])));
results.push(await check("biome", () => run(bin("biome"), ["check"])));
results.push(await check("knip", () => run(bin("knip"), [])));

// The tarball itself is judged, not the folder: what counts is what a stranger would install.
const scratch = mkdtempSync(join(tmpdir(), "kvferry-check-"));
try {
  for (const { folder, manifest } of publishable()) {
    if (!existsSync(join(folder, "dist"))) {
      results.push(await check(`pack ${manifest.name}`, async () => ({ ok: false, output: "it has no build" })));
      continue;
    }
    const packed = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", scratch], folder);
    const file = join(scratch, `${manifest.name.replace("@", "").replace("/", "-")}-${manifest.version}.tgz`);
    if (!packed.ok || !existsSync(file)) {
      results.push(await check(`pack ${manifest.name}`, async () => ({ ...packed, ok: false })));
      continue;
    }
    results.push(await check(`publint ${manifest.name}`, () => run(bin("publint"), ["run", file, "--strict"])));
    results.push(await check(`attw ${manifest.name}`, () => run(bin("attw"), [file, "--profile", "esm-only"])));
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

const failed = results.filter((ok) => !ok).length;
console.log(`${results.length - failed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
