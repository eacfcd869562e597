import { spawnSync } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";

const POLICY = "/usr/sbin/policy-rc.d";

/** Installs Debian's packages, if this machine lets us. Nobody who runs tests wants servers on their ports: the packages start none.
 * @param units of systemd that must not start at the next boot either.
 * @returns why it did not, or undefined. */
export function aptInstall(packages, units = []) {
  const wanted = `install ${packages.join(" ")}`;
  if (process.getuid?.() !== 0) return `only root can ${wanted}`;
  if (spawnSync("apt-get", ["--version"]).status !== 0) return `there is no apt-get to ${wanted}`;
  const ours = !existsSync(POLICY);
  if (ours) writeFileSync(POLICY, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    const install = () => apt("install", "--no-install-recommends", ...packages);
    // fresh lists of packages only where the old ones do not do
    if (!install() && !(apt("update") && install())) return `apt-get could not ${wanted}`;
  } finally {
    if (ours) rmSync(POLICY, { force: true });
  }
  for (const unit of units) spawnSync("systemctl", ["disable", unit]);
  return undefined;
}

function apt(...args) {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  return spawnSync("apt-get", ["-qq", "-y", ...args], { stdio: ["ignore", "ignore", "inherit"], env }).status === 0;
}
