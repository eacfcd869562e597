/** How often servers that share a capacity look at one another, and how long they wait for each other. All in ms but the last. */
export interface CapacityPace {
  /** Pauses between turns: while stores wait for room, while there is something to do, and else. */
  readonly hurryMs: number;
  readonly activeMs: number;
  readonly idleMs: number;
  /** The leader's pause while nothing is to do: so long may who asks for room after a quiet time wait for it. */
  readonly leaderIdleMs: number;
  /** The lease is renewed this often, and free when it has not changed for so long in the eyes of who waits for it. */
  readonly renewMs: number;
  readonly leaseExpiryMs: number;
  /** A server shows that it lives this often. */
  readonly beatMs: number;
  /** After so long without a sign of its own a server takes it that it was given up, and its room is void; far below what others wait. */
  readonly roomValidMs: number;
  /** A server of which nobody can know whether it lives, on another host, has ended when it has shown nothing for so long. */
  readonly endedAfterMs: number;
  /** What a process has asked of the storage may still take effect so long after its end, or after it has given up waiting. */
  readonly lateMs: number;
  /** How far ahead of its stores a server asks for room; what was not needed for so long is given back. */
  readonly aheadMs: number;
  /** A store waits so long for room; and none waits for so long after one waited in vain. */
  readonly roomWaitMs: number;
  /** Uses are told this often, stores as soon as there are some and this has passed. */
  readonly usesReportMs: number;
  readonly storesReportMs: number;
  /** Everything is counted anew this often; and for what is unaccounted for not before this pause. */
  readonly recountEveryMs: number;
  readonly recountPauseMs: number;
  /** A turn does so much evicting before it lets others run. */
  readonly evictingMs: number;
  /** What nobody needs any more is removed this often. */
  readonly sweepEveryMs: number;
  /** Keys that are evicted in one step. */
  readonly evictKeysMax: number;
}

/** Where a request takes a fraction of a millisecond and costs nothing: file systems. */
export const SWIFT_PACE: CapacityPace = Object.freeze({
  ...{ hurryMs: 10, activeMs: 50, idleMs: 250, leaderIdleMs: 250 },
  ...{ renewMs: 1000, leaseExpiryMs: 5000, beatMs: 2000 },
  ...{ roomValidMs: 2 * 60_000, endedAfterMs: 5 * 60_000, lateMs: 0 },
  ...{ aheadMs: 2000, roomWaitMs: 1000, usesReportMs: 3000, storesReportMs: 100 },
  ...{ recountEveryMs: 10 * 60_000, recountPauseMs: 5000 },
  ...{ evictingMs: 100, sweepEveryMs: 5000, evictKeysMax: 128 },
});

/** Where each request takes some 50 ms and costs money: object storages. */
export const THRIFTY_PACE: CapacityPace = Object.freeze({
  ...{ hurryMs: 100, activeMs: 1000, idleMs: 5000, leaderIdleMs: 2500 },
  ...{ renewMs: 5000, leaseExpiryMs: 20_000, beatMs: 15_000 },
  ...{ roomValidMs: 2 * 60_000, endedAfterMs: 5 * 60_000, lateMs: 15_000 },
  ...{ aheadMs: 10_000, roomWaitMs: 5000, usesReportMs: 30_000, storesReportMs: 1000 },
  ...{ recountEveryMs: 60 * 60_000, recountPauseMs: 60_000 },
  ...{ evictingMs: 1000, sweepEveryMs: 60_000, evictKeysMax: 1000 },
});
