import { runTool, type ToolOptions } from "../tool.js";

/** What the commands of Storage Scale tell of a folder; undefined: not known. */
export interface GpfsAttributes {
  /** mmlsfs: bytes of a full block, and the least that a file's end takes. */
  readonly blockBytes: number | undefined;
  readonly subblockBytes: number | undefined;
  /** mmlsattr -L */
  readonly fileset: string | undefined;
  readonly pool: string | undefined;
}

/** Where they are; on the PATH of root at most. */
const FOLDERS: readonly string[] = ["/usr/lpp/mmfs/bin"];

/** Asks `mmlsfs` and `mmlsattr`; what they do not tell stays unknown. `device`: source of the mount. */
export async function getGpfsAttributes(
  folder: string,
  device: string | undefined,
  options: Pick<ToolOptions, "timeoutMs">,
): Promise<GpfsAttributes> {
  const tool = { ...options, folders: FOLDERS };
  const [fileSystem, attributes] = await Promise.all([
    device === undefined ? undefined : runTool("mmlsfs", [device, "-Y"], tool),
    runTool("mmlsattr", ["-L", folder], tool),
  ]);
  const fields = fileSystem?.kind === "ok" ? parseMmlsfs(fileSystem.stdout) : new Map<string, string>();
  return {
    blockBytes: wholeNumber(fields.get("blockSize")),
    subblockBytes: wholeNumber(fields.get("minFragmentSize")),
    ...parseMmlsattr(attributes.kind === "ok" ? attributes.stdout : ""),
  };
}

/** Reads what `mmlsfs DEVICE -Y` prints: lines of fields between colons, named by the line HEADER. The first of a name counts: it is that of the
 * pool `system`. */
export function parseMmlsfs(text: string): Map<string, string> {
  const lines = text.split("\n").map((line) => line.split(":"));
  const header = lines.find((fields) => fields[2] === "HEADER");
  const [nameAt, dataAt] = [header?.indexOf("fieldName") ?? -1, header?.indexOf("data") ?? -1];
  const found = new Map<string, string>();
  if (nameAt < 0 || dataAt < 0) return found;
  for (const fields of lines) {
    const [name, data] = [fields[nameAt], fields[dataAt]];
    if (fields[0] !== "mmlsfs" || fields[2] === "HEADER" || name === undefined || data === undefined) continue;
    if (!found.has(name)) found.set(name, decodeURIComponent(data));
  }
  return found;
}

/** Reads what `mmlsattr -L FILE` prints. */
export function parseMmlsattr(text: string): Pick<GpfsAttributes, "fileset" | "pool"> {
  const field = (name: string): string | undefined => new RegExp(`^${name}:[ \\t]*(\\S+)`, "m").exec(text)?.[1];
  return { fileset: field("fileset name"), pool: field("storage pool name") };
}

function wholeNumber(text: string | undefined): number | undefined {
  const value = Number(text);
  return Number.isSafeInteger(value) && value > 0 ? value : undefined;
}
