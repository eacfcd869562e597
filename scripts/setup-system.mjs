// What suites need besides npm's packages, for `npm test -- --all`: libfuse for file systems that hang on demand, two real S3 servers, built with
// Go where there is a Go, and Debian's packages for real NFS. Without them the tests that need them are skipped, by name.
import { spawnSync } from "node:child_process";
import { fuseProblem } from "./lib/fuse-faults.mjs";
import { GUEST_PACKAGES, guestAvailable } from "./lib/nfs-guest/guest.mjs";
import { buildS3Servers } from "./lib/s3-servers.mjs";

installFuse();
installNfs();
if (spawnSync("go", ["version"]).status !== 0) {
  console.log("there is no Go toolchain (https://go.dev/dl): the tests against real S3 servers will be skipped");
} else {
  await buildS3Servers();
}

function installFuse() {
  if (fuseProblem() === "libfuse3-dev is not installed") apt(["fuse3", "libfuse3-dev", "pkg-config"]);
  const problem = fuseProblem();
  if (problem !== undefined) console.log(`the tests on file systems that hang will be skipped: ${problem}`);
}

function installNfs() {
  if (process.arch === "x64" && guestAvailable() !== true) apt(GUEST_PACKAGES);
  const available = guestAvailable();
  if (available !== true) console.log(`the suite nfs will not run: ${available}`);
}

/** Only asks for fresh lists of packages where the old ones do not do. */
function apt(packages) {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const run = (...args) => spawnSync("apt-get", ["-qq", ...args], { stdio: ["ignore", "ignore", "inherit"], env });
  const install = ["install", "-y", "--no-install-recommends", ...packages];
  if (run(...install).status === 0) return;
  run("update");
  run(...install);
}
