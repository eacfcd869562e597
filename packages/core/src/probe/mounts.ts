import { readFile } from "node:fs/promises";

/** A line of /proc/self/mountinfo. */
export interface Mount {
  /** `major:minor`, as stat(2) has it in st_dev. */
  readonly device: string;
  /** Where it is mounted. */
  readonly point: string;
  /** For instance `ext4`, `nfs4`, `fuse.sshfs`. */
  readonly type: string;
  /** Device, or `host:/export`. */
  readonly source: string;
  /** Of this mount, such as `noatime`, then those of the file system, such as `vers=4.2`. */
  readonly options: readonly string[];
}

/** Reads /proc/self/mountinfo's text; lines that are none are left out. */
export function parseMounts(text: string): Mount[] {
  const mounts: Mount[] = [];
  for (const line of text.split("\n")) {
    const [left, right] = line.split(" - ");
    const mine = left?.split(" ") ?? [];
    const theirs = right?.split(" ") ?? [];
    const [device, point, options] = [mine[2], mine[4], mine[5]];
    const [type, source, more] = theirs;
    if (device === undefined || point === undefined || options === undefined) continue;
    if (type === undefined || source === undefined) continue;
    const all = [...options.split(","), ...(more ?? "").split(",")].filter((each) => each !== "");
    mounts.push({ device, point: decoded(point), type, source: decoded(source), options: [...new Set(all)] });
  }
  return mounts;
}

/** The mount that a path lies in: of those with the longest point before it the last one, which hides the others. No call goes to the file system
 * itself, which may hang. */
export function mountOf(path: string, mounts: readonly Mount[]): Mount | undefined {
  let best: Mount | undefined;
  for (const mount of mounts) {
    const inside = mount.point === "/" || path === mount.point || path.startsWith(`${mount.point}/`);
    if (inside && mount.point.length >= (best?.point.length ?? 0)) best = mount;
  }
  return best;
}

/** The mounts of this process; none where there is no /proc. */
export async function readMounts(): Promise<Mount[]> {
  try {
    return parseMounts(await readFile("/proc/self/mountinfo", "utf8"));
  } catch {
    return [];
  }
}

/** An option's value: `mountOption(mount, "vers")` of `vers=4.2` is `4.2`, of a bare option "". */
export function mountOption(mount: Mount, name: string): string | undefined {
  const found = mount.options.findLast((option) => option === name || option.startsWith(`${name}=`));
  return found?.slice(name.length + 1);
}

function decoded(text: string): string {
  return text.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
