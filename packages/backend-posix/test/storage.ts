import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, open, readdir, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { GROUP_BYTES, keyGroup, keyHex, type OffloadBackend } from "@kvferry/core";
import type { BackendFactory, CreatedBackend, DamageHooks } from "@kvferry/testkit";
import { PosixBackend, type PosixConfig } from "../src/index.js";

export const isRoot: boolean = process.getuid?.() === 0;

export const vllmFs: NonNullable<PosixConfig["vllmFs"]> = {
  base: "org_model_0123456789ab",
  rank: 0,
  config: '{"model_name": "org/model"}',
};

/** Where a block lies, by docs/block-format.md and not by the code under test. */
export function blockPath(root: string, backend: OffloadBackend, key: Uint8Array, layout = "kvferry"): string {
  const hex = keyHex(key);
  if (layout === "kvferry")
    return join(root, backend.context.namespace.digestHex, "blocks", hex.slice(0, 2), `${hex}.kvb`);
  const hash = hex.slice(0, -2 * GROUP_BYTES);
  return join(
    root,
    `${vllmFs.base}_r${vllmFs.rank}`,
    hash.slice(0, 3),
    `${hash.slice(3, 5)}_g${keyGroup(key)}`,
    `${hash}.bin`,
  );
}

/** Inverts the lowest bit of one byte of a file. */
export async function flipByte(path: string, offset: number): Promise<void> {
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

/** An empty folder, on its own small tmpfs if asked (root only). `within`: makes the folder around it. */
export async function makeRoot(
  tmpfsBytes?: number,
  within?: () => string,
): Promise<{ root: string; remove(): Promise<void> }> {
  const folder = within?.() ?? (await mkdtemp(join(tmpdir(), "kvferry-posix-")));
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
  const probe = join(tmpdir(), `kvferry-immutable-${process.pid}`);
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

export interface StorageKind {
  readonly config?: Partial<PosixConfig>;
  /** Give the storage a tmpfs of this size, so that it can be filled. */
  readonly tmpfsBytes?: number;
  /** Make the storage's folder in another way, as one in which it lies alone. */
  readonly within?: () => string;
  /** Whether that one's file system may be filled. */
  readonly fillable?: boolean;
}

/** The kit's way to a PosixBackend over a folder of its own. */
export function posixFactory({ config = {}, tmpfsBytes, within, fillable }: StorageKind): BackendFactory {
  return {
    async create(): Promise<CreatedBackend> {
      const { root, remove } = await makeRoot(tmpfsBytes, within);
      const make = () => new PosixBackend({ root, ...(config.layout === "vllm-fs" && { vllmFs }), ...config });
      const backend = make();
      const damage = damageHooks(root, backend, config, {
        small: tmpfsBytes !== undefined || fillable === true,
        deniable: tmpfsBytes === undefined && within === undefined && (!isRoot || immutableWorks),
      });
      const oneNamespaceAKey =
        config.layout === "vllm-fs" ? "vLLM's paths leave the rest of the namespace out" : undefined;
      return { backend, reopen: async () => make(), damage, oneNamespaceAKey, cleanup: remove };
    },
  };
}

function damageHooks(
  root: string,
  backend: OffloadBackend,
  config: Partial<PosixConfig>,
  { small, deniable }: { readonly small: boolean; readonly deniable: boolean },
): DamageHooks {
  const pathOf = (key: Uint8Array) => blockPath(root, backend, key, config.layout);
  const filler = join(dirname(root), "filler");
  return {
    flip: (key, byteOffset) => flipByte(pathOf(key), byteOffset),
    truncate: (key, bytes) => truncate(pathOf(key), bytes),
    async leaveTempFile() {
      const folder = join(await writersFolder(root), "gone.00000000-999999999-1-00112233aabb");
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, "0"), Buffer.alloc(10_000, 7));
    },
    ...(small && { noSpace: () => fill(filler) }),
    ...(deniable && { denyPermission: () => setWritable(root, false) }),
    async restore() {
      if (existsSync(filler)) await truncate(filler, 0); // xfs gives the room of a removed file back later, at its leisure
      await rm(filler, { force: true });
      if (deniable && existsSync(root)) await setWritable(root, true);
    },
    impossible: {
      ...(!small && { noSpace: "only a small file system of its own may be filled: see the run over tmpfs" }),
      ...(!deniable && { denyPermission: "root may write here whatever the mode says" }),
    },
  };
}

async function writersFolder(root: string): Promise<string> {
  for (const name of await readdir(root)) {
    for (const candidate of [join(root, name, "tmp"), join(root, name, ".kvferry", "tmp")])
      if (existsSync(candidate)) return candidate;
  }
  throw new Error(`no writers' folder below ${root}`);
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

async function setWritable(root: string, writable: boolean): Promise<void> {
  if (isRoot) {
    execFileSync("chattr", ["-R", writable ? "-i" : "+i", root], { stdio: "ignore" });
    return;
  }
  const folders = execFileSync("find", [root, "-type", "d"], { encoding: "utf8" }).trim().split("\n");
  for (const folder of folders) await chmod(folder, writable ? 0o700 : 0o500);
}
