/** Small files in one flat folder: all that servers know of one another. Each call is one step that others see whole or not at all, but for
 * `write`, whose bytes may be seen torn. Errors are those of the storage; a file that is not there is none. */
export interface CapacityFiles {
  list(): Promise<string[]>;
  /** At most `bytesMax` bytes from `offset` on, of a file as it was when it was listed last, or later; undefined if there is no such file. */
  read(name: string, offset: number, bytesMax: number): Promise<Uint8Array | undefined>;
  /** Makes or replaces a file. */
  replace(name: string, bytes: Uint8Array): Promise<void>;
  /** False if the name is taken. */
  create(name: string, bytes: Uint8Array): Promise<boolean>;
  /** Writes into a file of one's own at `offset`, and makes it if it is not there. What was behind what is written may go. */
  write(name: string, offset: number, bytes: Uint8Array): Promise<void>;
  remove(name: string): Promise<void>;
}
