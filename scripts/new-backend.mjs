#!/usr/bin/env node
// `npm run new:backend NAME`: a small working backend in packages/backend-NAME, to be turned into the real one.
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = resolve(fileURLToPath(import.meta.url), "../..");
const template = join(root, "templates/backend");
const NAME_LENGTH_MAX = 40;

const HELP = `Usage: npm run new:backend NAME

Makes packages/backend-NAME out of templates/backend: a working backend with its manifest, README and tests.
NAME is lower-case: letters, digits and single hyphens, beginning with a letter, at most ${NAME_LENGTH_MAX} characters.

Example: npm run new:backend acme-store
  makes packages/backend-acme-store with the class AcmeStoreBackend in the package @kvferry/backend-acme-store

Options: --into FOLDER  make FOLDER/backend-NAME instead (by default, FOLDER is packages)
         --help         this text
`;

function fail(message) {
  process.stderr.write(`${message}\n\n${HELP}`);
  process.exit(2);
}

function readArguments() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: { into: { type: "string", default: join(root, "packages") }, help: { type: "boolean", default: false } },
    });
  } catch (error) {
    return fail(error.message);
  }
}

function checkName(positionals) {
  const [name] = positionals;
  if (name === undefined) fail("NAME is missing");
  if (positionals.length > 1) fail(`one NAME at a time, got ${positionals.join(" ")}`);
  if (name.startsWith("backend-")) fail(`leave out "backend-": the folder gets it by itself`);
  if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name) || name.length > NAME_LENGTH_MAX)
    fail(`"${name}" is no name for a backend`);
  return name;
}

/** Every file is text; names of the template stand in it in three spellings. */
function rename(folder, name) {
  const pascal = name.replace(/(^|-)([a-z0-9])/g, (_, __, letter) => letter.toUpperCase());
  const camel = pascal[0].toLowerCase() + pascal.slice(1);
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const text = readFileSync(path, "utf8");
    writeFileSync(
      path,
      text.replaceAll("my-storage", name).replaceAll("MyStorage", pascal).replaceAll("myStorage", camel),
    );
  }
}

/** All packages carry one version; a new one joins them. */
function setVersions(folder) {
  const { version } = JSON.parse(readFileSync(join(root, "packages/core/package.json"), "utf8"));
  const path = join(folder, "package.json");
  writeFileSync(
    path,
    readFileSync(path, "utf8").replaceAll('"0.0.0"', `"${version}"`).replaceAll('"^0.0.0"', `"^${version}"`),
  );
}

const { values, positionals } = readArguments();
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const name = checkName(positionals);
const folder = join(resolve(values.into), `backend-${name}`);
const shown = relative(process.cwd(), folder) || folder;
if (existsSync(folder)) fail(`${shown} exists already; nothing was changed`);

try {
  const generated = new Set(["node_modules", "dist", ".turbo"]);
  cpSync(template, folder, { recursive: true, filter: (source) => !generated.has(basename(source)) });
  rename(folder, name);
  setVersions(folder);
} catch (error) {
  rmSync(folder, { recursive: true, force: true }); // no half-made package
  throw error;
}

process.stdout.write(`Made ${shown}. Next:

  npm install                                   links the new package into the workspace
  npx vitest run --project backend-${name}      its tests, which pass as they are
  npx biome check --write ${shown}              sorts what the new name has put out of order

Then say in src/manifest.ts what your storage can do, and write the methods in src/backend.ts.
docs/adding-a-backend.md goes through it.
`);
