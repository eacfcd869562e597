/** Files of the folder `capacity/`; docs/capacity.md. No name is ever built from what a file says. */
export type CapacityName =
  | { readonly kind: "epoch"; readonly epoch: number }
  | { readonly kind: "state"; readonly writer: string }
  | { readonly kind: "grant"; readonly writer: string; readonly epoch: number }
  | { readonly kind: "log"; readonly writer: string; readonly file: number }
  | { readonly kind: "evictions"; readonly epoch: number; readonly file: number }
  | { readonly kind: "unfinished"; readonly writer: string };

const WRITER = "[A-Za-z0-9.]+-\\d{1,10}-\\d{1,20}-[0-9a-f]{12}";
const NUMBER = "(0|[1-9]\\d{0,14})";

const PATTERNS: readonly [RegExp, (parts: readonly string[]) => CapacityName][] = [
  [new RegExp(`^epoch-${NUMBER}$`), ([, epoch]) => ({ kind: "epoch", epoch: Number(epoch) })],
  [new RegExp(`^(${WRITER})\\.state$`), ([, writer = ""]) => ({ kind: "state", writer })],
  [
    new RegExp(`^(${WRITER})\\.grant-${NUMBER}$`),
    ([, writer = "", epoch]) => ({ kind: "grant", writer, epoch: Number(epoch) }),
  ],
  [
    new RegExp(`^(${WRITER})\\.log-${NUMBER}$`),
    ([, writer = "", file]) => ({ kind: "log", writer, file: Number(file) }),
  ],
  [
    new RegExp(`^evictions-${NUMBER}-${NUMBER}$`),
    ([, epoch, file]) => ({ kind: "evictions", epoch: Number(epoch), file: Number(file) }),
  ],
  [new RegExp(`\\.(${WRITER})\\.tmp$`), ([, writer = ""]) => ({ kind: "unfinished", writer })],
];

export function epochName(epoch: number): string {
  return `epoch-${epoch}`;
}

export function stateName(writer: string): string {
  return `${writer}.state`;
}

export function grantName(writer: string, epoch: number): string {
  return `${writer}.grant-${epoch}`;
}

export function logName(writer: string, file: number): string {
  return `${writer}.log-${file}`;
}

export function evictionsName(epoch: number, file: number): string {
  return `evictions-${epoch}-${file}`;
}

/** What a file of the folder is; undefined for one that is none of ours. */
export function parseName(name: string): CapacityName | undefined {
  for (const [pattern, make] of PATTERNS) {
    const parts = pattern.exec(name);
    if (parts !== null) return make(parts);
  }
  return undefined;
}

/** The highest epoch among the names; 0 if there is none. */
export function newestEpoch(names: readonly string[]): number {
  let newest = 0;
  for (const name of names) {
    if (!name.startsWith("epoch-")) continue;
    const parsed = parseName(name);
    if (parsed?.kind === "epoch" && parsed.epoch > newest) newest = parsed.epoch;
  }
  return newest;
}
