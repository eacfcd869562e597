import type { NamespaceFields } from "@kvferry/core";

export const KEY_BYTES: number;
export const BLOCK_BYTES: number;
export const namespaceFields: NamespaceFields;
export function keyNumber(number: number): Uint8Array;
export function fillBlock(bytes: Uint8Array, number: number): void;
