import { GROUP_BYTES, keyGroup, keyHex } from "@kvferry/core";
import type { LayoutName } from "@kvferry/native";

const HEX_BYTES: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

/** The folder of a block's file, relative to that of all blocks; docs/block-format.md, "Paths". */
export function leafFolder(layout: LayoutName, key: Uint8Array): string {
  if (layout === "kvferry") return HEX_BYTES[key[0] as number] as string;
  const hash = keyHex(key.subarray(0, -GROUP_BYTES));
  return `${hash.slice(0, 3)}/${hash.slice(3, 5)}_g${keyGroup(key)}`;
}

/** The folders that hold a folder, up to that of all blocks, which is "". */
export function foldersAbove(folder: string): string[] {
  const parts = folder.split("/");
  return parts.map((_, i) => parts.slice(0, i).join("/"));
}
