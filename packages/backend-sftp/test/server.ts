import { afterAll, beforeAll, describe } from "vitest";
import { type Sshd, sshdBinary, startSshd } from "../../../scripts/lib/sshd.mjs";
import type { SftpConfig } from "../src/index.js";

/** Whether OpenSSH's server is here. Where it is not, tests against it are skipped by name: node scripts/setup-system.mjs installs it. */
const missing: boolean = sshdBinary() === undefined;

/** A group of tests against a server of its own. */
export function describeSshd(
  title: string,
  body: (server: () => Sshd) => void,
  options: Parameters<typeof startSshd>[0] = {},
): void {
  const reason = missing ? " (no sshd: node scripts/setup-system.mjs)" : "";
  describe.skipIf(missing)(`${title}${reason}`, { timeout: 60_000 }, () => {
    let running: Sshd | undefined;
    beforeAll(async () => {
      running = await startSshd(options);
    }, 40_000);
    afterAll(() => running?.stop(), 40_000);
    body(() => running as Sshd);
  });
}

/** What lets a backend into a server. */
export function configOf(server: Sshd, root: string, more: Partial<SftpConfig> = {}): SftpConfig {
  const { host, port, user, hostKey, keyFile } = server;
  return { host, port, user, hostKey, privateKeyFile: keyFile, root, ...more };
}
