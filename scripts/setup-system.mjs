// What suites need besides npm's packages, for `npm test -- --all`: xfsprogs, libfuse for file systems that hang on demand, OpenSSH's server, Debian's packages for
// real NFS, and two real S3 servers, built with Go where there is a Go. Without them the tests that need them are skipped, by name.
import { spawnSync } from "node:child_process";
import { aptInstall } from "./lib/apt.mjs";
import { fuseProblem } from "./lib/fuse-faults.mjs";
import { GUEST_PACKAGES, guestAvailable } from "./lib/nfs-guest/guest.mjs";
import { buildS3Servers } from "./lib/s3-servers.mjs";
import { sshdBinary } from "./lib/sshd.mjs";

if (fuseProblem() === "libfuse3-dev is not installed") say(aptInstall(["fuse3", "libfuse3-dev", "pkg-config"]));
if (fuseProblem() !== undefined) say(`the tests on file systems that hang will be skipped: ${fuseProblem()}`);

if (sshdBinary() === undefined) say(aptInstall(["openssh-server"], ["ssh.service", "ssh.socket"]));
if (sshdBinary() === undefined) say("there is no sshd: the tests against a real SSH server will be skipped");

if (spawnSync("mkfs.xfs", ["-V"]).error !== undefined) say(aptInstall(["xfsprogs"]));

if (process.arch === "x64" && guestAvailable() !== true) say(aptInstall(GUEST_PACKAGES));
if (guestAvailable() !== true) say(`the suite nfs will not run: ${guestAvailable()}`);

if (spawnSync("go", ["version"]).status !== 0) {
  say("there is no Go toolchain (https://go.dev/dl): the tests against real S3 servers will be skipped");
} else {
  await buildS3Servers();
}

function say(text) {
  if (text !== undefined) console.log(text);
}
