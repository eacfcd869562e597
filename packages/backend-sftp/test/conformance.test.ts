import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { describeSshd } from "./server.js";
import { isRoot, sftpFactory } from "./storage.js";

const test = { describe, it };
const caseTimeoutMs = 60_000;

describeSshd("sftp over OpenSSH", (server) => {
  conformance({ name: "sftp", test, caseTimeoutMs, factory: sftpFactory(server) });
});

describeSshd(
  "sftp over a server without extensions, one connection, small requests",
  (server) => {
    const config = { connectionsMax: 1, requestBytesMax: 4096, requestsPerFileMax: 3 };
    conformance({ name: "sftp", test, caseTimeoutMs, factory: sftpFactory(server, { config }) });
  },
  "internal-sftp -P posix-rename,statvfs,fstatvfs,fsync,limits,hardlink",
);

if (isRoot) {
  describeSshd("sftp on a small tmpfs", (server) => {
    const factory = sftpFactory(server, { tmpfsBytes: 48 << 20, config: { fsync: true } });
    conformance({ name: "sftp", test, caseTimeoutMs, factory });
  });
} else describe.skip("sftp on a small tmpfs: mounting needs root", () => it("is not run", () => {}));
