import { type Finding, mountOf, readMounts, storedBlockBytes } from "@kvferry/core";
import { requireParallelFs } from "./detect.js";
import { getGpfsAttributes } from "./gpfs/attributes.js";
import { judgeGpfs } from "./gpfs/judge.js";
import { examineLustre } from "./lustre/prepare.js";

/** What there is to say of a folder on Lustre or Storage Scale for blocks of so many bytes; nothing is changed there.
 * @throws KvferryError UNSUPPORTED where it is on neither. */
export async function examineParallelFs(path: string, blockBytes: number): Promise<Finding[]> {
  const { kind, blockBytes: statfsBlockBytes } = await requireParallelFs(path);
  const fileBytes = storedBlockBytes(blockBytes);
  return kind === "lustre" ? examineLustre(path, fileBytes) : examineGpfs(path, statfsBlockBytes, fileBytes);
}

export async function examineGpfs(path: string, statfsBlockBytes: number, fileBytes: number): Promise<Finding[]> {
  const mount = mountOf(path, await readMounts());
  const attributes = await getGpfsAttributes(path, mount?.source, {});
  return judgeGpfs({ ...attributes, folder: path, statfsBlockBytes, fileBytes });
}
