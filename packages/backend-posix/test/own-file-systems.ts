import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, truncateSync, writeFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fuseProblem, mountFuseFaults } from "../../../scripts/lib/fuse-faults.mjs";

/** A mount of a test's own. */
export interface OwnMount {
  readonly folder: string;
  unmount(): Promise<void>;
}

/** A file system that tests can have one of for themselves. */
export interface OwnFileSystem {
  readonly name: string;
  /** Why it cannot be had here, or undefined. */
  readonly problem: string | undefined;
  /** Whether it may be filled to the brim: it is small, and nobody else's. */
  readonly fillable: boolean;
  mount(): Promise<OwnMount>;
}

const MIB = 2 ** 20;

/** Real ones; the FUSE daemon passes everything through to a folder of this host. */
export const OWN_FILE_SYSTEMS: readonly OwnFileSystem[] = [
  onLoop("ext4", ["mkfs.ext4", "-q", "-F"], 64 * MIB),
  onLoop("xfs", ["mkfs.xfs", "-q", "-f"], 320 * MIB), // it takes none below 300 MiB
  { name: "a FUSE passthrough", problem: fuseProblem(), fillable: false, mount: mountFuseFaults },
];

/** In a file, by a loop device. */
function onLoop(name: string, mkfs: readonly [string, ...string[]], bytes: number): OwnFileSystem {
  const mount = async (): Promise<OwnMount> => {
    const folder = mkdtempSync(join(tmpdir(), `kvferry-${name}-`));
    const image = `${folder}.image`;
    const remove = async (): Promise<void> => {
      await rm(image, { force: true });
      await rm(folder, { recursive: true, force: true });
    };
    try {
      writeFileSync(image, "");
      truncateSync(image, bytes);
      const [command, ...options] = mkfs;
      execFileSync(command, [...options, image], { stdio: ["ignore", "ignore", "pipe"] });
      execFileSync("mount", ["-o", "loop", image, folder], { stdio: ["ignore", "ignore", "pipe"] });
    } catch (thrown) {
      await remove();
      throw thrown;
    }
    return {
      folder,
      async unmount() {
        execFileSync("umount", ["-l", folder]);
        await remove();
      },
    };
  };
  return { name: `${name} on a loop device`, problem: loopProblem(name, mkfs[0]), fillable: true, mount };
}

function loopProblem(name: string, mkfs: string): string | undefined {
  if (process.getuid?.() !== 0) return "mounting needs root";
  if (spawnSync(mkfs, ["-V"]).error !== undefined) return `there is no ${mkfs}`;
  if (spawnSync("losetup", ["-f"]).status !== 0) return "there is no loop device";
  spawnSync("modprobe", [name]); // where the kernel has it as a module
  return spawnSync("grep", ["-qw", name, "/proc/filesystems"]).status === 0 ? undefined : `the kernel has no ${name}`;
}
