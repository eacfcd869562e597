import { THRIFTY_PACE } from "@kvferry/core";

/** For servers next door, and tests that do not want to wait for minutes. */
export const TEST_PACE = {
  ...THRIFTY_PACE,
  ...{ hurryMs: 20, activeMs: 100, idleMs: 200, leaderIdleMs: 200 },
  ...{ renewMs: 1000, leaseExpiryMs: 5000, beatMs: 2000, lateMs: 3000 },
  ...{ aheadMs: 2000, roomWaitMs: 5000, usesReportMs: 500, storesReportMs: 100 },
  ...{ recountPauseMs: 2000, evictingMs: 200, sweepEveryMs: 5000 },
};
