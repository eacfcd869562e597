// Runs the conformance kit on a folder that a stand-in has made into one on a parallel file system: child-kit.mjs JSON. Against the built packages.
import { mkdir, mkdtemp, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ParallelFsBackend } from "@kvferry/backend-parallel-fs";
import { keyHex } from "@kvferry/core";
import { runConformance } from "@kvferry/testkit";
import { flipByte } from "./flip.mjs";

const { mount, faults, config = {} } = JSON.parse(process.argv[2]);

async function create() {
  const root = join(await mkdtemp(join(mount, "kit-")), "root");
  const make = () => new ParallelFsBackend({ root, ...config });
  const backend = make();
  const namespaceFolder = () => join(root, backend.context.namespace.digestHex);
  const pathOf = (key) => join(namespaceFolder(), "blocks", keyHex(key).slice(0, 2), `${keyHex(key)}.kvb`);
  const damage = {
    flip: (key, byteOffset) => flipByte(pathOf(key), byteOffset),
    truncate: (key, bytes) => truncate(pathOf(key), bytes),
    async leaveTempFile() {
      const [namespace] = await readdir(root);
      const folder = join(root, namespace, "tmp", "gone.00000000-999999999-1-00112233aabb");
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "0"), Buffer.alloc(10_000, 7));
    },
    noSpace: () => writeFile(faults, "full * 2\n"),
    restore: () => rm(faults, { force: true }),
    impossible: { denyPermission: "permissions are those of the file system below the stand-in: see backend-posix" },
  };
  return { backend, reopen: async () => make(), damage, cleanup: () => rm(join(root, ".."), { recursive: true }) };
}

const reports = await runConformance({ factory: { create }, caseTimeoutMs: 60_000 });
const readable = reports.map(({ name, status, reason, error }) => ({
  name,
  status,
  reason,
  error: error && String(error.stack ?? error),
}));
process.stdout.write(JSON.stringify(readable));
