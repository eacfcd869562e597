import type { Clock, Logger, OffloadBackend } from "@kvferry/core";
import { Bench, contextOf, freshNamespace } from "../src/bench.js";

/** A clock that moves when it is told to. */
export class TestClock implements Clock {
  ms = 1_000_000;

  nowMs(): number {
    return this.ms;
  }

  monotonicMs(): number {
    return this.ms;
  }
}

/** Opens a backend for a test of its own. */
export async function openBench(
  backend: OffloadBackend,
  { blockBytes = 256, clock, logger }: { blockBytes?: number; clock?: Clock; logger?: Logger } = {},
): Promise<Bench> {
  const namespace = freshNamespace();
  const context = contextOf(namespace, blockBytes, 36);
  await backend.open({
    ...context,
    ...(clock === undefined ? {} : { clock }),
    ...(logger === undefined ? {} : { logger }),
  });
  return new Bench({ backend, cleanup: async () => {} }, backend, namespace, blockBytes, 36);
}
