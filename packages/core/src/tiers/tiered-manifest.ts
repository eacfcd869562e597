import { type Capabilities, defineManifest, type Limits, type Manifest } from "../manifest.js";
import type { Tier } from "./tier.js";

/**
 * What a store of tiers can do. What is listed, removed or counted must be so in every tier; a slot is left alone at an abort, and every payload verified,
 * only if each tier does it. A block is there for other hosts, or after the process, if one tier that every store reaches within the call keeps it.
 */
export function tieredManifest(tiers: readonly Tier[]): Manifest {
  const manifests = tiers.map(({ backend }) => backend.manifest);
  const through = tiers.filter(({ write }) => write === "through").map(({ backend }) => backend.manifest);
  const every = (name: keyof Capabilities): boolean => manifests.every(({ capabilities }) => capabilities[name]);
  const some = (name: keyof Capabilities): boolean => through.some(({ capabilities }) => capabilities[name]);
  const limit = (pick: (...values: number[]) => number, name: keyof Limits): number =>
    pick(...manifests.map(({ limits }) => limits[name]));
  return defineManifest({
    name: "tiered",
    capabilities: {
      scan: every("scan"),
      remove: every("remove"),
      usage: every("usage"),
      zeroCopy: every("zeroCopy"),
      abandonable: every("abandonable"),
      verifiesPayload: every("verifiesPayload"),
      sharedAcrossHosts: some("sharedAcrossHosts"),
      durable: some("durable"),
    },
    limits: {
      batchKeysMax: limit(Math.min, "batchKeysMax"),
      blockBytesMin: limit(Math.max, "blockBytesMin"),
      blockBytesMax: limit(Math.min, "blockBytesMax"),
      keyBytesMax: limit(Math.min, "keyBytesMax"),
    },
  });
}
