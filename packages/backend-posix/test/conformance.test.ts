import { conformance } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { isRoot, posixFactory } from "./storage.js";

const test = { describe, it };

conformance({ name: "posix", test, factory: posixFactory({}) });
conformance({
  name: "posix, named temporary files and buffered I/O",
  test,
  factory: posixFactory({ config: { publish: "rename", direct: "off" } }),
});
conformance({ name: "posix, layout vllm-fs", test, factory: posixFactory({ config: { layout: "vllm-fs" } }) });
conformance({ name: "posix, abandonable", test, factory: posixFactory({ config: { abandonable: true } }) });
conformance({
  name: "posix, abandonable, named temporary files and buffered I/O",
  test,
  factory: posixFactory({ config: { abandonable: true, publish: "rename", direct: "off" } }),
});
conformance({ name: "posix with a capacity", test, factory: posixFactory({ config: { capacityBytes: 1 << 30 } }) });

if (isRoot) conformance({ name: "posix on a small tmpfs", test, factory: posixFactory({ tmpfsBytes: 48 << 20 }) });
else describe.skip("posix on a small tmpfs: mounting needs root", () => it("is not run", () => {}));
