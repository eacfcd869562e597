const HOURS = 24;
const HOUR_MS = 60 * 60 * 1000;

/** What a write was for. */
export type WritePurpose = "stores" | "reinsertion" | "metadata";

/** Bytes written to a drive: by purpose since it was opened, by hour for the last day, and ever. What it knows fits into a page of the drive. */
export class WearCounter {
  readonly written: Record<WritePurpose, number> = { stores: 0, reinsertion: 0, metadata: 0 };
  /** Bound of the last 24 hours; Infinity for none. */
  readonly dailyWriteBytesMax: number;
  #everBytes = 0;
  /** Bytes of hour h (since 1970) at h % 24, and which hour that is. */
  readonly #bytes: Float64Array = new Float64Array(HOURS);
  readonly #hours: Float64Array = new Float64Array(HOURS);

  constructor(dailyWriteBytesMax: number) {
    this.dailyWriteBytesMax = dailyWriteBytesMax;
  }

  /** Since the drive was made. */
  get everBytes(): number {
    return this.#everBytes;
  }

  add(purpose: WritePurpose, bytes: number, nowMs: number): void {
    this.written[purpose] += bytes;
    this.#count(bytes, nowMs);
  }

  /** Bytes that were written before this process, at that time. */
  addEarlier(bytes: number, atMs: number): void {
    this.#count(bytes, atMs);
  }

  lastDayBytes(nowMs: number): number {
    const hour = Math.floor(nowMs / HOUR_MS);
    let sum = 0;
    for (let i = 0; i < HOURS; i++) {
      const age = hour - (this.#hours[i] as number);
      if (age < HOURS) sum += this.#bytes[i] as number; // an hour ahead counts too: clocks are set back
    }
    return sum;
  }

  /** Bytes that may still be written now. */
  leftBytes(nowMs: number): number {
    return Math.max(0, this.dailyWriteBytesMax - this.lastDayBytes(nowMs));
  }

  /** Into a page: everBytes, then 24 times hour and bytes, as little-endian doubles. */
  encode(page: Uint8Array): void {
    const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    view.setFloat64(0, this.#everBytes, true);
    for (let i = 0; i < HOURS; i++) {
      view.setFloat64(8 + i * 16, this.#hours[i] as number, true);
      view.setFloat64(16 + i * 16, this.#bytes[i] as number, true);
    }
  }

  /** What `encode` has written. */
  restore(page: Uint8Array): void {
    const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    this.#everBytes = view.getFloat64(0, true);
    for (let i = 0; i < HOURS; i++) {
      this.#hours[i] = view.getFloat64(8 + i * 16, true);
      this.#bytes[i] = view.getFloat64(16 + i * 16, true);
    }
  }

  #count(bytes: number, atMs: number): void {
    const hour = Math.floor(atMs / HOUR_MS);
    const place = hour % HOURS;
    this.#everBytes += bytes;
    if ((this.#hours[place] as number) < hour) {
      this.#hours[place] = hour;
      this.#bytes[place] = 0;
    }
    this.#bytes[place] = (this.#bytes[place] as number) + bytes;
  }
}
