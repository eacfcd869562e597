import { SftpBackend, storedNamespaces } from "@kvferry/backend-sftp";
import type { ResolvedSftpTier } from "./tier-config.js";
import type { TierRuntime } from "./tier-runtime.js";

/** Each namespace has its own connections: whether the host lets us in is found out when the first one is opened. */
export async function startSftpTier(tier: ResolvedSftpTier): Promise<TierRuntime> {
  const { backend, name, write: _write, deadlineMs: _deadlineMs, ...config } = tier;
  const { host, port = 22, user, root } = config;
  return {
    name,
    backend,
    place: `sftp://${user}@${host}${port === 22 ? "" : `:${port}`}${root}`,
    capacityBytes: undefined,
    createBackend: () => new SftpBackend(config),
    async namespaces() {
      return (await storedNamespaces(config)).map((record) => ({ ...record, vllmFs: undefined }));
    },
    queue: () => undefined,
    counters: () => ({}),
    gauges: () => ({}),
    problem: async () => undefined,
    close: async () => {},
  };
}
