// What suites need besides npm's packages, for `npm test -- --all`: libfuse for file systems that hang on demand, OpenSSH's server, and two real S3
// servers, built with Go where there is a Go. Without them the tests that need them are skipped, by name.
import { spawnSync } from "node:child_process";
import { fuseProblem } from "./lib/fuse-faults.mjs";
import { installSshd } from "./lib/install-sshd.mjs";
import { buildS3Servers } from "./lib/s3-servers.mjs";

installFuse();
const reason = installSshd();
if (reason !== undefined) console.log(`${reason}: the tests against a real SSH server will be skipped`);
if (spawnSync("go", ["version"]).status !== 0) {
  console.log("there is no Go toolchain (https://go.dev/dl): the tests against real S3 servers will be skipped");
} else {
  await buildS3Servers();
}

function installFuse() {
  const apt = (...args) => spawnSync("apt-get", ["-qq", ...args], { stdio: ["ignore", "ignore", "inherit"] });
  const packages = ["install", "-y", "fuse3", "libfuse3-dev", "pkg-config"];
  if (fuseProblem() === "libfuse3-dev is not installed" && apt(...packages).status !== 0) {
    apt("update");
    apt(...packages);
  }
  const problem = fuseProblem();
  if (problem !== undefined) console.log(`the tests on file systems that hang will be skipped: ${problem}`);
}
