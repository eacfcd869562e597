import { spawnSync } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { sshdBinary } from "./sshd.mjs";

const POLICY = "/usr/sbin/policy-rc.d";

/** Installs OpenSSH's server where it is missing and this machine lets us: tests start servers of their own. @returns why it is not there, or undefined. */
export function installSshd() {
  if (sshdBinary() !== undefined) return undefined;
  if (process.getuid?.() !== 0) return "installing sshd wants root (Debian: apt install openssh-server)";
  if (spawnSync("apt-get", ["--version"]).status !== 0) return "there is no apt-get to install sshd with";
  // nobody who runs tests wants a server on port 22: the package must neither start one nor leave one for the next boot
  const ours = !existsSync(POLICY);
  if (ours) writeFileSync(POLICY, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    const apt = (...args) =>
      spawnSync("apt-get", ["-q", "-y", ...args], {
        env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
        stdio: ["ignore", "inherit", "inherit"],
      }).status === 0;
    const install = () => apt("install", "--no-install-recommends", "openssh-server");
    const installed = install() || (apt("update") && install());
    if (!installed || sshdBinary() === undefined) return "apt-get could not install openssh-server";
  } finally {
    if (ours) rmSync(POLICY, { force: true });
  }
  spawnSync("systemctl", ["disable", "ssh.service", "ssh.socket"]);
  return undefined;
}
