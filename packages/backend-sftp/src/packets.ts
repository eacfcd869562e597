/** Buffers of one size that are used again and again: a buffer of some 100 KiB that is made anew costs more than what is written into it. */
export class PacketPool {
  readonly #bytes: number;
  readonly #keptMax: number;
  readonly #free: Buffer[] = [];

  constructor(bytes: number, keptMax: number) {
    this.#bytes = bytes;
    this.#keptMax = keptMax;
  }

  /** A buffer of at least so many bytes. Small ones are not worth keeping. */
  take(bytes: number): Buffer {
    if (bytes > this.#bytes || bytes < this.#bytes / 8) return Buffer.allocUnsafe(bytes);
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.#bytes);
  }

  give(packet: Buffer): void {
    if (packet.length === this.#bytes && this.#free.length < this.#keptMax) this.#free.push(packet);
  }
}
