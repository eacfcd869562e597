// Compiles C++ files one by one, for what is built without node-gyp.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");

/** The first compiler that can build and link with these flags. */
export function findCompiler(flags) {
  const probe = mkdtempSync(join(tmpdir(), "kvferry-probe-"));
  try {
    const source = join(probe, "probe.cc");
    writeFileSync(source, "#include <memory>\nint main() { return 0; }\n");
    const names = process.env.CXX ? [process.env.CXX] : ["g++", "clang++"];
    return names.find((name) => {
      const built = spawnSync(name, ["-std=c++20", ...flags, source, "-o", join(probe, "probe")]);
      return built.status === 0 && spawnSync(join(probe, "probe")).status === 0;
    });
  } finally {
    rmSync(probe, { recursive: true, force: true });
  }
}

const headers = readdirSync(root, { recursive: true })
  .filter((file) => file.endsWith(".h") && /^(src|test)\//.test(file))
  .map((file) => readFileSync(join(root, file)));

/** Compiles one file unless its object was made from the same text; resolves to what the compiler said, if it failed. */
export function compile(compiler, flags, source, objects) {
  const hash = createHash("sha256").update(`${compiler} ${flags.join(" ")} ${source}\0`);
  hash.update(readFileSync(join(root, source)));
  for (const header of headers) hash.update(header);
  const object = join(objects, `${source.replaceAll("/", "-")}.${hash.digest("hex").slice(0, 16)}.o`);
  if (existsSync(object)) return Promise.resolve({ object });
  return new Promise((done) => {
    const args = [
      "-std=c++20",
      ...flags,
      "-Isrc",
      "-Itest",
      "-Itest/cpp",
      "-c",
      source,
      "-o",
      `${object}.${process.pid}`,
    ];
    const child = spawn(compiler, args, { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text) => {
      said += text;
    });
    child.on("close", (code) => {
      if (code !== 0) return done({ object, said });
      spawnSync("mv", [`${object}.${process.pid}`, object]);
      done({ object });
    });
  });
}
