import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { describeSshd } from "./server.js";
import { isRoot, sftpFactory } from "./storage.js";

// With all that OpenSSH has. Without its extensions: conformance-plain.test.ts, a file of its own so that the two run side by side.

/** A disk can be filled where it may be made small, which needs root. */
const small = isRoot ? { tmpfsBytes: 48 << 20 } : {};
const title = isRoot ? "on a small tmpfs" : "(a full disk is not tried: mounting needs root)";

describeSshd(`sftp over OpenSSH ${title}`, (server) => {
  const factory = sftpFactory(server, { ...small, config: { fsync: true } });
  conformance({ name: "sftp", test: { describe, it }, caseTimeoutMs: 60_000, factory });
});
