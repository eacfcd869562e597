import { open } from "node:fs/promises";

/** Inverts the lowest bit of one byte of a file. */
export async function flipByte(path, offset) {
  const file = await open(path, "r+");
  try {
    const byte = Buffer.alloc(1);
    await file.read(byte, 0, 1, offset);
    byte[0] ^= 1;
    await file.write(byte, 0, 1, offset);
  } finally {
    await file.close();
  }
}
