// What suites need besides npm's packages, for `npm test -- --all`: two real S3 servers, built with Go where there is a Go, and Debian's packages
// for real NFS. Without them the tests against real servers are skipped, and the suite nfs is not run, by name.
import { spawnSync } from "node:child_process";
import { GUEST_PACKAGES, guestAvailable } from "./lib/nfs-guest/guest.mjs";
import { buildS3Servers } from "./lib/s3-servers.mjs";

if (spawnSync("go", ["version"]).status !== 0) {
  console.log("there is no Go toolchain (https://go.dev/dl): the tests against real S3 servers will be skipped");
} else {
  await buildS3Servers();
}

if (guestAvailable() !== true && process.arch === "x64") installPackages(GUEST_PACKAGES);

/** Only says so where it cannot: the suites name what they miss. */
function installPackages(packages) {
  if (spawnSync("apt-get", ["--version"]).status !== 0 || process.getuid?.() !== 0) {
    console.log(`not root, or no apt-get: ${packages.join(", ")} will not be installed`);
    return;
  }
  const options = {
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
  };
  spawnSync("apt-get", ["update", "-qq"], options);
  const { status } = spawnSync("apt-get", ["install", "-qq", "--no-install-recommends", ...packages], options);
  if (status !== 0)
    console.log(`apt-get install ended with ${status}: the suites that need ${packages.join(", ")} will not run`);
}
