import type { OffloadBackend, RootStatus } from "@kvferry/core";

/** A backend whose namespaces share the capacity of one root. */
interface RootBackend extends Pick<OffloadBackend, "state"> {
  readonly rootStatus: RootStatus | undefined;
}

/** The root's capacity as this process sees it; what only the leader knows is 0 in others. */
export function rootGauges(backends: Iterable<RootBackend>): Readonly<Record<string, number>> {
  let status: RootStatus | undefined;
  for (const { state, rootStatus } of backends) if (state === "open") status ??= rootStatus;
  return {
    root_leads: status?.leads === true ? 1 : 0,
    root_counted_bytes: status?.count?.counted.bytes ?? 0,
    root_outstanding_bytes: status?.count?.outstanding.bytes ?? 0,
    root_evicted_blocks: status?.evictedBlocks ?? 0,
  };
}
