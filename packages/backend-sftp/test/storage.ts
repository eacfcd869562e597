import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, open, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { keyHex, type OffloadBackend } from "@kvferry/core";
import type { BackendFactory, CreatedBackend, DamageHooks } from "@kvferry/testkit";
import type { Sshd } from "../../../scripts/lib/sshd.mjs";
import { SftpBackend, type SftpConfig } from "../src/index.js";
import { configOf } from "./server.js";

export const isRoot: boolean = process.getuid?.() === 0;

/** Where a block lies, by docs/block-format.md and not by the code under test. */
function blockPath(root: string, backend: OffloadBackend, key: Uint8Array): string {
  const hex = keyHex(key);
  return join(root, backend.context.namespace.digestHex, "blocks", hex.slice(0, 2), `${hex}.kvb`);
}

/** Inverts the lowest bit of one byte of a file. */
async function flipByte(path: string, offset: number): Promise<void> {
  const file = await open(path, "r+");
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte[0] = (byte[0] as number) ^ 1;
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}

/** An empty folder, on its own small tmpfs if asked (root only). */
export async function makeRoot(tmpfsBytes?: number): Promise<{ root: string; remove(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), "kvferry-sftp-"));
  if (tmpfsBytes !== undefined) execFileSync("mount", ["-t", "tmpfs", "-o", `size=${tmpfsBytes}`, "tmpfs", folder]);
  return {
    root: join(folder, "root"),
    async remove() {
      if (tmpfsBytes !== undefined) execFileSync("umount", ["-l", folder]);
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Whether root's own way around permissions can be closed here: the immutable flag. */
const immutableWorks: boolean = (() => {
  if (!isRoot) return false;
  const probe = join(tmpdir(), `kvferry-sftp-immutable-${process.pid}`);
  try {
    execFileSync("mkdir", [probe]);
    execFileSync("chattr", ["+i", probe], { stdio: "ignore" });
    execFileSync("chattr", ["-i", probe], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  } finally {
    execFileSync("rm", ["-rf", probe]);
  }
})();

export const canDeny: boolean = !isRoot || immutableWorks;

/** The kit's way to an SftpBackend over a folder of its own. */
export function sftpFactory(
  server: () => Sshd,
  { config = {}, tmpfsBytes }: { readonly config?: Partial<SftpConfig>; readonly tmpfsBytes?: number } = {},
): BackendFactory {
  return {
    async create(): Promise<CreatedBackend> {
      const { root, remove } = await makeRoot(tmpfsBytes);
      const make = (): SftpBackend => new SftpBackend(configOf(server(), root, config));
      const backend = make();
      return { backend, reopen: async () => make(), damage: damageHooks(root, backend, tmpfsBytes), cleanup: remove };
    },
  };
}

function damageHooks(root: string, backend: OffloadBackend, tmpfsBytes: number | undefined): DamageHooks {
  const filler = join(dirname(root), "filler");
  const small = tmpfsBytes !== undefined;
  const deniable = !small && canDeny;
  return {
    flip: (key, byteOffset) => flipByte(blockPath(root, backend, key), byteOffset),
    truncate: (key, bytes) => truncate(blockPath(root, backend, key), bytes),
    async leaveTempFile() {
      const folder = join(root, backend.context.namespace.digestHex, "tmp", "gone-999999999-1-00112233aabb");
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "0"), Buffer.alloc(10_000, 7));
    },
    ...(small && { noSpace: () => fill(filler) }),
    ...(deniable && { denyPermission: () => setWritable(root, false) }),
    async restore() {
      await rm(filler, { force: true });
      if (deniable && existsSync(root)) await setWritable(root, true);
    },
    impossible: {
      ...(!small && { noSpace: "only a small file system of its own may be filled: see the run over tmpfs" }),
      ...(!deniable && { denyPermission: "root may write here whatever the mode says" }),
    },
  };
}

async function fill(path: string): Promise<void> {
  const file = await open(path, "w");
  try {
    for (let piece = 1 << 20; piece >= 1; ) {
      try {
        if ((await file.write(Buffer.alloc(piece))).bytesWritten < piece)
          throw Object.assign(new Error("short"), { code: "ENOSPC" });
      } catch (thrown) {
        if ((thrown as NodeJS.ErrnoException).code !== "ENOSPC") throw thrown;
        piece = Math.floor(piece / 2);
      }
    }
  } finally {
    await file.close().catch(() => {});
  }
}

/** Folders alone: blocks that are there stay readable. */
export async function setWritable(root: string, writable: boolean): Promise<void> {
  if (isRoot) {
    execFileSync("chattr", ["-R", writable ? "-i" : "+i", root], { stdio: "ignore" });
    return;
  }
  const entries = await readdir(root, { withFileTypes: true, recursive: true });
  const folders = entries.filter((entry) => entry.isDirectory()).map(({ parentPath, name }) => join(parentPath, name));
  for (const folder of [root, ...folders]) await chmod(folder, writable ? 0o700 : 0o500);
}
