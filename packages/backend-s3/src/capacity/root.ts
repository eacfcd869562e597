import {
  type CapacityPace,
  type Clock,
  type Logger,
  newWriterName,
  ObjectFiles,
  type OpenRoot,
  POLICIES,
  PrefixIndex,
  RootRegistry,
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

const roots = new RootRegistry();

/** The process's share in the capacity of a prefix: the same for all who ask, as the first one has configured it. Each gives it back by `releasePrefix`. */
export function acquirePrefix(options: PrefixCapacity): Promise<SharedRoot> {
  const { endpoint, bucket, prefix } = options.config;
  return roots.acquire(JSON.stringify([endpoint, bucket, prefix]), async () => openPrefix(options));
}

export function releasePrefix(shared: SharedRoot): Promise<void> {
  return roots.release(shared);
}

function openPrefix({ config, capacityBytes, pace, logger, clock }: PrefixCapacity): OpenRoot {
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
  return {
    shared,
    async close() {
      await shared.close();
      requests.close();
    },
  };
}
