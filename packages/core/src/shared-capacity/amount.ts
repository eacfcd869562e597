/** Room on storage, as it is counted, granted and used. */
export interface Amount {
  readonly bytes: number;
  readonly files: number;
}

export const NOTHING: Amount = Object.freeze({ bytes: 0, files: 0 });

export function plus(a: Amount, b: Amount): Amount {
  return { bytes: a.bytes + b.bytes, files: a.files + b.files };
}

export function minus(a: Amount, b: Amount): Amount {
  return { bytes: a.bytes - b.bytes, files: a.files - b.files };
}

/** Each of both at least 0. */
export function atLeastNothing(a: Amount): Amount {
  return { bytes: Math.max(0, a.bytes), files: Math.max(0, a.files) };
}

export function lesser(a: Amount, b: Amount): Amount {
  return { bytes: Math.min(a.bytes, b.bytes), files: Math.min(a.files, b.files) };
}

export function greater(a: Amount, b: Amount): Amount {
  return { bytes: Math.max(a.bytes, b.bytes), files: Math.max(a.files, b.files) };
}

export function isNothing(a: Amount): boolean {
  return a.bytes <= 0 && a.files <= 0;
}

/** Whether either is more in `a`. */
export function exceeds(a: Amount, b: Amount): boolean {
  return a.bytes > b.bytes || a.files > b.files;
}

/** So many files of one size. */
export function filesOf(count: number, fileBytes: number): Amount {
  return { bytes: count * fileBytes, files: count };
}

/** How many files of one size fit. */
export function filesThatFit(room: Amount, fileBytes: number): number {
  return Math.max(0, Math.min(Math.floor(room.bytes / fileBytes), room.files));
}
