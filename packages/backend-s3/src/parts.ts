/** A part of an object: bytes from `from` to `to`, `to` not included. */
export interface Part {
  readonly from: number;
  readonly to: number;
}

/** An object of `bytes` bytes in parts of `partBytes`, the last one shorter. */
export function partsOf(bytes: number, partBytes: number): Part[] {
  const parts: Part[] = [];
  for (let from = 0; from < bytes; from += partBytes) parts.push({ from, to: Math.min(from + partBytes, bytes) });
  return parts;
}

/** The pieces of bytes that lie one after the other, from one place to another: views, no copies. */
export function piecesBetween(pieces: readonly Uint8Array[], { from, to }: Part): Uint8Array[] {
  const found: Uint8Array[] = [];
  let start = 0;
  for (const piece of pieces) {
    const part = piece.subarray(Math.max(0, from - start), Math.max(0, to - start));
    if (part.length > 0) found.push(part);
    start += piece.length;
  }
  return found;
}
