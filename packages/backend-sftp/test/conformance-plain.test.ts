import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { describeSshd } from "./server.js";
import { sftpFactory } from "./storage.js";

// What every SFTP 3 server has, and nothing more.

describeSshd(
  "sftp over a server without extensions, one connection, small requests",
  (server) => {
    const config = { connectionsMax: 1, requestBytesMax: 16_384, requestsPerFileMax: 3 };
    const factory = sftpFactory(server, { config });
    conformance({ name: "sftp", test: { describe, it }, caseTimeoutMs: 60_000, factory });
  },
  { subsystem: "internal-sftp -P posix-rename,statvfs,fstatvfs,fsync,limits,hardlink" },
);
