import type { Finding } from "@kvferry/core";
import type { GpfsAttributes } from "./attributes.js";

/** What is known of a folder on Storage Scale. */
export interface GpfsFacts extends GpfsAttributes {
  readonly folder: string;
  /** statfs(2) f_bsize. */
  readonly statfsBlockBytes: number;
  /** Of a block with its footer. */
  readonly fileBytes: number;
}

/** More than this of a file's room unused is worth a word. */
const WASTED_RATIO_MAX = 0.1;
/** Subblocks of a block since version 5 for blocks of 4 MiB; older file systems have 32. */
const SUBBLOCK_BYTES_GUESSED = 8192;
const ROOT_FILESET = "root";

/** What the facts mean for blocks on Storage Scale. */
export function judgeGpfs(facts: GpfsFacts): Finding[] {
  return [blockSize(facts), fileset(facts)];
}

function blockSize({ blockBytes, subblockBytes, statfsBlockBytes, fileBytes }: GpfsFacts): Finding {
  const full = blockBytes ?? statfsBlockBytes;
  const least = subblockBytes ?? Math.min(full, SUBBLOCK_BYTES_GUESSED);
  const taken = Math.ceil(fileBytes / least) * least;
  const wasted = (taken - fileBytes) / taken;
  const source = blockBytes === undefined ? ", by statfs: mmlsfs did not tell" : "";
  const subject = "block size";
  const found = `${full} bytes in subblocks of ${least}${source}; a block's file has ${fileBytes}`;
  if (wasted > WASTED_RATIO_MAX) {
    return {
      ...{ severity: "advice", subject, found },
      means: `${Math.round(wasted * 100)} % of the room that a file takes stays unused, and \`capacity\` does not count it`,
      change: "offload larger chunks, or use a file system with smaller subblocks",
    };
  }
  return { severity: "fine", subject, found, means: "files fill the room that they take" };
}

function fileset({ fileset: name, pool, folder }: GpfsFacts): Finding {
  const subject = "fileset";
  const inPool = pool === undefined ? "" : `, pool ${pool}`;
  if (name === undefined) {
    return {
      ...{ severity: "advice", subject, found: "not known: mmlsattr did not tell" },
      means: "which quota and which pool the blocks are under cannot be told",
      change: `run \`/usr/lpp/mmfs/bin/mmlsattr -L ${folder}\``,
    };
  }
  if (name !== ROOT_FILESET) {
    const means =
      "its quota bounds the blocks (a store beyond it ends as NO_SPACE), its placement rules choose their pool";
    return { severity: "fine", subject, found: `${name}${inPool}`, means };
  }
  return {
    ...{ severity: "advice", subject, found: `${name}${inPool}` },
    means: "the blocks share quota and placement with everything else in the file system",
    change: "make a fileset for them (`mmcrfileset`, `mmlinkfileset`), and have `root` point into it",
  };
}
