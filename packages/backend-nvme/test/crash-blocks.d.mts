import type { NamespaceFields } from "@kvferry/core";

export const KEY_BYTES: number;
export const namespaceFields: NamespaceFields;
export function makeKeys(first: number, count: number): Uint8Array;
export function numberOf(key: Uint8Array): number;
export function fillBlock(bytes: Uint8Array, number: number): void;
export const CRASH_BLOCK_BYTES: number;
export const CRASH_DRIVE: { readonly capacityBytes: number; readonly segmentBytes: number };
