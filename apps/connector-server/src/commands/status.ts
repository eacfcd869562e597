import { KvferryError } from "@kvferry/core";
import { parseHttp } from "../config.js";
import type { ServerStatus } from "../status.js";
import { warmText } from "./warm.js";

export interface StatusFlags {
  readonly http: string;
  readonly json?: boolean;
}

const TIMEOUT_MS = 10_000;

/** Asks a running server, and prints what it says.
 * @throws KvferryError UNAVAILABLE if none answers. */
export async function status({ http, json }: StatusFlags): Promise<void> {
  const answer = await ask(http);
  process.stdout.write(json === true ? `${JSON.stringify(answer, null, 2)}\n` : summary(answer));
}

async function ask(http: string): Promise<ServerStatus> {
  const address = parseHttp(http);
  if (address === undefined) throw new KvferryError("CONFIG_INVALID", "status: give the server's HOST:PORT, not 'off'");
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  const url = `http://${host}:${address.port}/v1/status`;
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`it answered ${response.status}`);
    return (await response.json()) as ServerStatus;
  } catch (cause) {
    const reason = (cause as { cause?: Error }).cause?.message ?? (cause as Error).message;
    throw new KvferryError("UNAVAILABLE", `no kvferry answers at ${url}: ${reason}`, { operation: "status", cause });
  }
}

function summary(status: ServerStatus): string {
  const lines = [
    `kvferry ${status.version}, ${status.state}, pid ${status.pid}, up ${status.uptimeSeconds} s`,
    `socket     ${status.socket}`,
    ...status.tiers.map(({ name, place }) => `tier       ${name}${place === undefined ? "" : ` at ${place}`}`),
    `engines    ${status.sessions.length}`,
    ...status.namespaces.flatMap(({ digest, model, sessions, tiers, misses }) => [
      `namespace  ${digest.slice(0, 12)} ${model}, ${sessions} engines`,
      ...tiers.map(
        ({ name, circuit, usage }) =>
          `  ${name.padEnd(8)} ${usage === undefined ? "not counted" : `${usage.blocks} blocks, ${(usage.bytes / 2 ** 30).toFixed(2)} GiB`}${circuit === "closed" ? "" : `, circuit ${circuit}`}`,
      ),
      ...(Object.values(misses).some((count) => count > 0) ? [`  misses   ${counted(misses)}`] : []),
    ]),
    ...status.direct.map(
      ({ engine, workers, parts, heldBlocks }) =>
        `direct     ${engine}: ${workers} workers connected, ${parts} parts a chunk, ${heldBlocks} blocks held`,
    ),
    ...(status.warm === undefined ? [] : [`warming    ${warmText(status.warm)}`]),
    ...status.counters.map(({ operation, requests, failed, keys }) => {
      const outcomes = counted(keys);
      return `${operation.padEnd(10)} ${requests} requests, ${failed} failed${outcomes === "" ? "" : `; ${outcomes}`}`;
    }),
  ];
  return `${lines.join("\n")}\n`;
}

function counted(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ");
}
