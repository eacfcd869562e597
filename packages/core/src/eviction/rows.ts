/** Rows with room for some more, so that growing a table row by row copies little. */
const GROWTH = 1.5;
const ROWS_MIN = 64;

/** How many rows to make room for where `row` does not fit. */
export function rowsFor(row: number): number {
  return Math.max(ROWS_MIN, Math.ceil((row + 1) * GROWTH));
}

/** A copy of `values` with room for `rows`, the new ones filled with `fill`. */
export function grownInt32(values: Int32Array, rows: number, fill: number): Int32Array {
  const grown = new Int32Array(rows);
  grown.set(values);
  if (fill !== 0) grown.fill(fill, values.length);
  return grown;
}

/** As `grownInt32`, filled with 0. */
export function grownUint8(values: Uint8Array, rows: number): Uint8Array {
  const grown = new Uint8Array(rows);
  grown.set(values);
  return grown;
}
