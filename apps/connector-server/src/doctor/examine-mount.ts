import { judgeMount, readNfsMount } from "@kvferry/backend-nfs";
import { examineParallelFs } from "@kvferry/backend-parallel-fs";
import type { Finding, FolderFacts } from "@kvferry/core";

/** Of the blocks that findings are about. */
const BLOCK_BYTES = 2 ** 20;

/** What the backend that is made for a file system has to say of a folder on it; nothing where there is none. */
export async function examineMount({ path, fileSystem }: Pick<FolderFacts, "path" | "fileSystem">): Promise<Finding[]> {
  switch (fileSystem.name) {
    case "nfs":
      return judgeMount(await readNfsMount(path), { blockBytes: BLOCK_BYTES });
    case "lustre":
    case "gpfs":
      return examineParallelFs(path, BLOCK_BYTES);
    default:
      return [];
  }
}
