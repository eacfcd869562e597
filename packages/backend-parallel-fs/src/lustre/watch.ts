import type { Logger } from "@kvferry/core";
import { fullestOst, usedRatio } from "./df.js";
import { OST_USED_RATIO_MAX } from "./judge.js";
import { getTargets } from "./lfs.js";

export interface TargetWatchOptions {
  /** Any folder of the file system. */
  readonly folder: string;
  readonly pool?: string | undefined;
  readonly logger: Logger;
  /** Default 60,000. */
  readonly periodMs?: number;
  readonly timeoutMs?: number;
}

/** How full the OSTs are, from time to time. */
export interface TargetWatch {
  /** By the last look, numbers for gauges; undefined where `lfs` is not there. After looks that fail the last good one stays. */
  readonly gauges: { readonly lustre_fullest_ost_ratio: number; readonly lustre_osts_away: number } | undefined;
  close(): void;
}

const PERIOD_MS = 60_000;

/** Looks once before it returns, then every so often, one look at a time. */
export async function watchTargets({
  folder,
  pool,
  logger,
  periodMs = PERIOD_MS,
  timeoutMs,
}: TargetWatchOptions): Promise<TargetWatch> {
  let gauges: TargetWatch["gauges"];
  let timer: NodeJS.Timeout | undefined;
  let closed = false;
  let warned = false;
  const look = async (): Promise<boolean> => {
    const answer = await getTargets(folder, pool, timeoutMs === undefined ? {} : { timeoutMs });
    if (answer.kind === "absent") return false;
    gauges ??= { lustre_fullest_ost_ratio: 0, lustre_osts_away: 0 };
    if (answer.kind !== "ok") return true;
    const fullest = fullestOst(answer.value);
    const ratio = fullest === undefined ? 0 : usedRatio(fullest);
    const away = answer.value.filter((each) => each.kind === "OST" && each.away !== undefined).length;
    gauges = { lustre_fullest_ost_ratio: ratio, lustre_osts_away: away };
    if (ratio > OST_USED_RATIO_MAX && !warned)
      logger.warn({ folder, ost: fullest?.name, ratio }, "an OST is nearly full");
    warned = ratio > OST_USED_RATIO_MAX;
    return true;
  };
  const lookAgain = (): void => {
    if (closed) return;
    timer = setTimeout(() => look().then(lookAgain), periodMs);
    timer.unref();
  };
  if (await look()) lookAgain();
  return {
    get gauges() {
      return gauges;
    },
    close() {
      closed = true;
      clearTimeout(timer);
    },
  };
}
