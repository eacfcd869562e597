// What suites need besides npm's packages, for `npm test -- --all`: two real S3 servers, built with Go where there is a Go, and OpenSSH's server from the
// system's packages. Without them the tests against real servers are skipped, by name.
import { spawnSync } from "node:child_process";
import { installSshd } from "./lib/install-sshd.mjs";
import { buildS3Servers } from "./lib/s3-servers.mjs";

const reason = installSshd();
if (reason !== undefined) console.log(`${reason}: the tests against a real SSH server will be skipped`);

if (spawnSync("go", ["version"]).status !== 0) {
  console.log("there is no Go toolchain (https://go.dev/dl): the tests against real S3 servers will be skipped");
} else {
  await buildS3Servers();
}
