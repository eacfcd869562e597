// Cross-compiles the addon for all published platforms with zig, whose headers carry glibc 2.28 and musl, so that the binaries
// run on old systems too. `pip install ziglang`, then: node native/scripts/build-portable.mjs [PLATFORM …]
// ZIG names the compiler; default "python3 -m ziglang". Writes prebuilds/<platform>/kvferry.node.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const TARGETS = {
  "linux-x64-glibc": "x86_64-linux-gnu.2.28",
  "linux-arm64-glibc": "aarch64-linux-gnu.2.28",
  "linux-x64-musl": "x86_64-linux-musl",
  "linux-arm64-musl": "aarch64-linux-musl",
};
const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);
const headers = resolve(process.execPath, "../../include/node");
if (!existsSync(join(headers, "node_api.h"))) throw new Error(`there are no Node headers in ${headers}`);

const [command, ...prefix] = (process.env.ZIG ?? "python3 -m ziglang").split(" ");
const defines = ["NAPI_VERSION=8", "NAPI_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"];
defines.push("NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "BUILDING_NODE_EXTENSION");
const sources = readdirSync(join(root, "src"), { recursive: true })
  .filter((file) => file.endsWith(".cc"))
  .map((file) => join(root, "src", file));

for (const platform of process.argv.length > 2 ? process.argv.slice(2) : Object.keys(TARGETS)) {
  const target = TARGETS[platform];
  if (target === undefined)
    throw new Error(`unknown platform ${platform}; known are ${Object.keys(TARGETS).join(", ")}`);
  const folder = join(root, "prebuilds", platform);
  mkdirSync(folder, { recursive: true });
  const temporary = join(folder, `.${process.pid}.node`);
  const args = [...prefix, "c++", "-target", target, "-std=c++20", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"];
  // zig turns the undefined-behaviour sanitizer on by default.
  args.push("-fno-sanitize=undefined", "-s", ...defines.map((name) => `-D${name}`));
  args.push(`-I${join(root, "src")}`, `-I${headers}`, `-I${dirname(require.resolve("node-addon-api/package.json"))}`);
  args.push(
    ...sources,
    "-o",
    temporary,
    `-Wl,--version-script=${join(root, "gyp/exports.map")}`,
    "-Wl,-z,now",
    "-Wl,-z,nodelete",
    "-ldl", // a library of its own in glibc 2.28
  );
  const { status } = spawnSync(command, args, { stdio: "inherit" });
  if (status !== 0) throw new Error(`${platform}: the compiler ended with ${status}`);
  renameSync(temporary, join(folder, "kvferry.node"));
  console.log(`built prebuilds/${platform}/kvferry.node for ${target}`);
}
