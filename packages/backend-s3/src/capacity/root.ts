import {
  type CapacityPace,
  type Clock,
  type Logger,
  newWriterName,
  ObjectFiles,
  POLICIES,
  PrefixIndex,
  SharedRoot,
  writerHasEnded,
} from "@kvferry/core";
import type { ResolvedS3Config } from "../config.js";
import { S3Requests } from "../requests.js";
import { rootOf } from "../stored-namespaces.js";
import { ObjectBlockRoot } from "./block-root.js";
import { capacityObjects } from "./objects.js";

/** The capacity's own requests have their own sockets: they never wait for blocks. */
const SOCKETS_MAX = 16;
/** Ms without a byte after which such a request has failed, at most: a lease is to be renewed in time. */
const REQUEST_TIMEOUT_MS_MAX = 10_000;

export interface PrefixCapacity {
  readonly config: ResolvedS3Config;
  readonly capacityBytes: number;
  readonly pace: CapacityPace;
  readonly logger: Logger;
  readonly clock: Clock;
}

interface Registered {
  readonly shared: SharedRoot;
  readonly requests: S3Requests;
  users: number;
}

const roots: Map<string, Registered> = new Map();

/** The process's share in the capacity of a prefix: the same for all who ask, as the first one has configured it. Each gives it back by `releasePrefix`. */
export function acquirePrefix(options: PrefixCapacity): SharedRoot {
  const { endpoint, bucket, prefix } = options.config;
  const place = JSON.stringify([endpoint, bucket, prefix]);
  let entry = roots.get(place);
  if (entry === undefined) {
    entry = { ...openPrefix(options), users: 0 };
    roots.set(place, entry);
  }
  entry.users++;
  return entry.shared;
}

export async function releasePrefix(shared: SharedRoot): Promise<void> {
  for (const [place, entry] of roots) {
    if (entry.shared !== shared) continue;
    entry.users--;
    if (entry.users > 0) return;
    roots.delete(place);
    await shared.close();
    entry.requests.close();
  }
}

function openPrefix({ config, capacityBytes, pace, logger, clock }: PrefixCapacity): Omit<Registered, "users"> {
  const { bucket, prefix, objectsMax, policy, quotas } = config;
  const requestTimeoutMs = Math.min(config.requestTimeoutMs, REQUEST_TIMEOUT_MS_MAX);
  const requests = new S3Requests({ ...config, socketsMax: SOCKETS_MAX, requestTimeoutMs });
  const root = rootOf(prefix);
  const shared = new SharedRoot({
    place: `s3://${bucket}/${root}`,
    writer: newWriterName(),
    capacity: { bytes: capacityBytes, files: objectsMax ?? Number.POSITIVE_INFINITY },
    policy: POLICIES[policy],
    files: new ObjectFiles(capacityObjects(requests, `${root}capacity/`)),
    blocks: new ObjectBlockRoot(requests, prefix),
    // a new leader learns from the servers' logs how blocks were used, and else when they were written
    indexesOf: () => ({ open: async (_, keyBytes) => new PrefixIndex({ keyBytes }), async close() {} }),
    hasEnded: writerHasEnded,
    ...{ quotas, pace, logger, clock },
  });
  shared.start();
  return { shared, requests };
}
