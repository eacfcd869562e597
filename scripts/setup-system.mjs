// What suites need besides npm's packages, for `npm test -- --all`: two real S3 servers, built with Go where there is a Go.
// Without them the tests against real servers are skipped, by name.
import { spawnSync } from "node:child_process";
import { buildS3Servers } from "./lib/s3-servers.mjs";

if (spawnSync("go", ["version"]).status !== 0) {
  console.log("there is no Go toolchain (https://go.dev/dl): the tests against real S3 servers will be skipped");
} else {
  await buildS3Servers();
}
