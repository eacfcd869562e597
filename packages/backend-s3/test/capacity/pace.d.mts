import type { CapacityPace } from "@kvferry/core";

export const TEST_PACE: CapacityPace;
