// Makes the tarballs to publish: one package for each platform that prebuilds/ has, and @kvferry/native without binaries but
// with optional dependencies on all of them. They are written only here, because a lock file cannot name what is not published.
// Usage: node native/scripts/pack-platform.mjs OUT (after `npm run build -w @kvferry/native`)
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const out = process.argv[2];
if (out === undefined) throw new Error("usage: pack-platform.mjs OUT");
mkdirSync(out, { recursive: true });

const readManifest = (folder) => JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
const writeManifest = (folder, manifest) =>
  writeFileSync(join(folder, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);

function pack(folder) {
  const args = ["pack", "--json", "--ignore-scripts", "--pack-destination", resolve(out)];
  const [{ filename }] = JSON.parse(execFileSync("npm", args, { cwd: folder, encoding: "utf8" }));
  console.log(join(out, filename));
}

const main = readManifest(root);
const staging = mkdtempSync(join(tmpdir(), "kvferry-pack-"));
try {
  for (const platform of readdirSync(join(root, "prebuilds"))) {
    const source = join(root, "npm", platform);
    if (!existsSync(source)) throw new Error(`there is no native/npm/${platform}/package.json`);
    const folder = join(staging, platform);
    cpSync(source, folder, { recursive: true });
    cpSync(join(root, "prebuilds", platform, "kvferry.node"), join(folder, "kvferry.node"));
    writeManifest(folder, { ...readManifest(source), version: main.version });
    pack(folder);
  }
  const folder = join(staging, "native");
  for (const name of ["dist", "src", "README.md"]) cpSync(join(root, name), join(folder, name), { recursive: true });
  const optionalDependencies = Object.fromEntries(
    readdirSync(join(root, "npm")).map((platform) => [`@kvferry/native-${platform}`, main.version]),
  );
  const { scripts: _, devDependencies: __, ...published } = main;
  const files = main.files.filter((file) => file !== "prebuilds");
  writeManifest(folder, { ...published, files, optionalDependencies });
  pack(folder);
} finally {
  rmSync(staging, { recursive: true, force: true });
}
