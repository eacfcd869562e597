// The conformance kit on real NFS: node kit.mjs v3|v4
import { mkdir, mkdtemp, open, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, it } from "node:test";
import { NfsBackend } from "@kvferry/backend-nfs";
import { keyHex } from "@kvferry/core";
import { conformance } from "@kvferry/testkit";

const version = process.argv[2];
const EXPORT = "/run/export";

const factory = {
  async create() {
    const folder = await mkdtemp(`/run/nfs/c1${version}/kit-`);
    const root = join(folder, "root");
    const make = () => new NfsBackend({ root });
    const backend = make();
    return {
      backend,
      reopen: async () => make(),
      damage: damageHooks(root, backend),
      cleanup: () => rm(folder, { recursive: true, force: true }),
    };
  },
};

function damageHooks(root, backend) {
  const pathOf = (key) => {
    const hex = keyHex(key);
    return join(root, backend.context.namespace.digestHex, "blocks", hex.slice(0, 2), `${hex}.kvb`);
  };
  const filler = join(EXPORT, "filler");
  return {
    flip: (key, byteOffset) => flipByte(pathOf(key), byteOffset),
    truncate: (key, bytes) => truncate(pathOf(key), bytes),
    async leaveTempFile() {
      const [digest] = await readdir(root);
      const left = join(root, digest, "tmp", "gone.00000000-999999999-1-00112233aabb");
      await mkdir(left, { recursive: true });
      await writeFile(join(left, "0"), Buffer.alloc(10_000, 7));
    },
    noSpace: () => fill(filler),
    restore: () => rm(filler, { force: true }),
    impossible: { denyPermission: "root may write here whatever the mode says" },
  };
}

async function flipByte(path, offset) {
  const file = await open(path, "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, offset);
  byte[0] ^= 1;
  await file.write(byte, 0, 1, offset);
  await file.close();
}

/** Takes all room that the server has, on the server. */
async function fill(path) {
  const file = await open(path, "w");
  for (let piece = 16 << 20; piece >= 4096; ) {
    try {
      if ((await file.write(Buffer.alloc(piece))).bytesWritten < piece) piece /= 2;
    } catch {
      piece /= 2;
    }
  }
  await file.close();
}

conformance({ name: `NFS ${version}`, test: { describe, it }, factory, caseTimeoutMs: 60_000 });
