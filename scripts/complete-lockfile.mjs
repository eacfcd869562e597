// Platform packages (`@turbo/darwin-arm64`) are optional: when the registry that wrote the lockfile did not have one, npm
// leaves it out without a word, and from then on `npm ci` refuses the lockfile, on every platform. Their versions are
// pinned by the package that wants them, so the entries can be written down. Run it after a change of dependencies;
// `--check` only reports.
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = fileURLToPath(new URL("../package-lock.json", import.meta.url));
const lockfile = JSON.parse(readFileSync(path, "utf8"));

const PLATFORM =
  /[-/](android|darwin|freebsd|linux|netbsd|openbsd|openharmony|sunos|win32|windows)-(arm64|arm|x64|64|ia32|loong64|ppc64|riscv64|s390x)(?:-(\w+))?$/;

/** @returns the fields by which npm decides whether a machine wants the package; undefined if its name tells nothing. */
function platformOf(name) {
  const match = PLATFORM.exec(name);
  if (!match) return undefined;
  const [, os, cpu, abi = ""] = match;
  const libc = abi.startsWith("musl") ? ["musl"] : abi.startsWith("gnu") ? ["glibc"] : undefined;
  return { cpu: [cpu === "64" ? "x64" : cpu], ...(libc && { libc }), os: [os === "windows" ? "win32" : os] };
}

const isLocked = (parent, name) => {
  for (let folder = parent; ; folder = folder.slice(0, folder.lastIndexOf("node_modules/")).replace(/\/$/, "")) {
    if (lockfile.packages[`${folder ? `${folder}/` : ""}node_modules/${name}`]) return true;
    if (folder === "") return false;
  }
};

const added = [];
for (const [parent, entry] of Object.entries(lockfile.packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const platform = platformOf(name);
    if (!platform || !/^\d+\.\d+\.\d+/.test(version) || isLocked(parent, name)) continue;
    const beside = parent.slice(0, parent.lastIndexOf("node_modules/"));
    const { libc, ...rest } = platform;
    lockfile.packages[`${beside}node_modules/${name}`] = {
      version,
      cpu: rest.cpu,
      ...(entry.dev && { dev: true }),
      ...(libc && { libc }),
      optional: true,
      os: rest.os,
    };
    added.push(`${name}@${version}`);
  }
}

if (process.argv.includes("--check")) {
  for (const name of added) console.log(`missing from package-lock.json: ${name}`);
  if (added.length > 0) console.log("run: node scripts/complete-lockfile.mjs");
  const foreign = Object.values(lockfile.packages).filter(
    ({ resolved }) => resolved?.includes("://") && !resolved.startsWith("https://registry.npmjs.org/"),
  );
  for (const { resolved } of foreign) console.log(`not from the public registry: ${resolved}`);
  process.exitCode = added.length + foreign.length > 0 ? 1 : 0;
} else if (added.length > 0) {
  const packages = Object.entries(lockfile.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  lockfile.packages = Object.fromEntries(packages);
  writeFileSync(path, `${JSON.stringify(lockfile, null, 2)}\n`);
  console.log(`added ${added.length} entries`);
}
