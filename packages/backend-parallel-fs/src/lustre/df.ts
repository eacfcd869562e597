/** An OST or MDT as `lfs df` lists it. */
export interface LustreTarget {
  readonly name: string;
  readonly kind: "OST" | "MDT";
  readonly bytes: number;
  readonly usedBytes: number;
  readonly freeBytes: number;
  /** Letters such as D (degraded), N (no new objects), R (read-only), S (out of space), I (out of inodes): lfs-df(1). */
  readonly flags: string;
  /** Why nothing is known of it; the numbers are 0 then. */
  readonly away: string | undefined;
}

const KIB = 1024;
const COUNTED = /^(\S+?)(?:_UUID)?\s+(\d+)\s+(\d+)\s+(\d+)\s+\S+\s+.*\[(OST|MDT):\d+\](?:\s+([A-Za-z]+))?\s*$/;
const AWAY = /^(\S*(OST|MDT)[0-9a-f]{4})\S*\s*:\s*(.+?)\s*$/;

/** Reads what `lfs df` prints, in KiB as it does without -h. Lines of other kinds are left out. */
export function parseLustreDf(text: string): LustreTarget[] {
  const targets: LustreTarget[] = [];
  for (const line of text.split("\n")) {
    const counted = COUNTED.exec(line);
    if (counted !== null) {
      const [, name = "", total, used, free, kind, flags = ""] = counted;
      targets.push({
        ...{ name, kind: kind as "OST" | "MDT", flags, away: undefined },
        ...{ bytes: Number(total) * KIB, usedBytes: Number(used) * KIB, freeBytes: Number(free) * KIB },
      });
      continue;
    }
    const [, name, kind, away] = AWAY.exec(line) ?? [];
    if (name === undefined) continue;
    targets.push({ name, kind: kind as "OST" | "MDT", bytes: 0, usedBytes: 0, freeBytes: 0, flags: "", away });
  }
  return targets;
}

/** 0 to 1, of what may be used; what is kept back for the system is left out, as df does. */
export function usedRatio({ usedBytes, freeBytes }: LustreTarget): number {
  return usedBytes + freeBytes === 0 ? 0 : usedBytes / (usedBytes + freeBytes);
}

/** The OST that will be full first; undefined if none is known. */
export function fullestOst(targets: readonly LustreTarget[]): LustreTarget | undefined {
  const known = targets.filter(({ kind, away }) => kind === "OST" && away === undefined);
  return known.sort((a, b) => usedRatio(b) - usedRatio(a))[0];
}
