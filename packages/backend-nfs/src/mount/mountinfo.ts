/** One line of /proc/self/mountinfo. */
export interface MountEntry {
  readonly mountPoint: string;
  /** `ext4`, `nfs`, `nfs4` … */
  readonly type: string;
  /** `server:/export` for NFS. */
  readonly source: string;
  /** Options of the mount and of its superblock; "" for those without a value. Of two the superblock's counts. */
  readonly options: ReadonlyMap<string, string>;
}

/** Parses /proc/self/mountinfo (proc(5)); lines that it does not understand are left out. */
export function parseMountInfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split("\n")) {
    // id parent major:minor root mountpoint options optional… - type source superoptions
    const [before, after] = line.split(" - ", 2);
    const own = before?.split(" ") ?? [];
    const [type, source, superOptions] = after?.split(" ") ?? [];
    if (own.length < 6 || type === undefined || source === undefined) continue;
    const mountPoint = unescaped(own[4] as string);
    const options = parseOptions(`${own[5]},${superOptions ?? ""}`);
    entries.push({ mountPoint, type, source: unescaped(source), options });
  }
  return entries;
}

/** The mount that a path is on: the one with the longest mount point above it, and of those the one mounted last.
 * @param path absolute, without links. */
export function mountOf(path: string, entries: readonly MountEntry[]): MountEntry | undefined {
  let found: MountEntry | undefined;
  for (const entry of entries) {
    const { mountPoint } = entry;
    const above = mountPoint === "/" || path === mountPoint || path.startsWith(`${mountPoint}/`);
    if (above && mountPoint.length >= (found?.mountPoint.length ?? 0)) found = entry;
  }
  return found;
}

/** `a,b=c` as a map. */
export function parseOptions(text: string): Map<string, string> {
  const options = new Map<string, string>();
  for (const option of text.split(",")) {
    if (option === "") continue;
    const equals = option.indexOf("=");
    if (equals < 0) options.set(option, "");
    else options.set(option.slice(0, equals), option.slice(equals + 1));
  }
  return options;
}

/** The kernel writes blanks, tabs, line ends and backslashes as octal numbers. */
export function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
