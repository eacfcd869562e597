import { S3Backend, storedNamespaces } from "@kvferry/backend-s3";
import { rootGauges } from "./root-gauges.js";
import type { ResolvedS3Tier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** Each namespace has its own connections: whether the bucket can be used is found out when the first one is opened. */
export async function startS3Tier(tier: ResolvedS3Tier): Promise<TierRuntime> {
  const { backend, name, write: _write, deadlineMs: _deadlineMs, ...config } = tier;
  const { bucket, prefix = "", capacityBytes } = config;
  const backends = new Set<S3Backend>();
  return {
    name,
    backend,
    place: `s3://${bucket}${prefix === "" ? "" : `/${prefix}`}`,
    capacityBytes,
    createBackend() {
      for (const each of backends) if (each.state === "closed") backends.delete(each);
      const created = new S3Backend(config);
      backends.add(created);
      return created;
    },
    async namespaces() {
      return (await storedNamespaces(config)).map((record) => ({ ...record, vllmFs: undefined }));
    },
    queue: () => undefined,
    counters: () => ({}),
    gauges: () => (capacityBytes === undefined ? {} : rootGauges(backends)),
    problem: async () => undefined,
    close: async () => {},
  };
}
