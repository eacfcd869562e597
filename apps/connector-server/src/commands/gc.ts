import { KvferryError } from "@kvferry/core";
import { eachStoredNamespace, type StorageFlags } from "../maintenance/stored-blocks.js";
import { type SweepCounts, sweep } from "../maintenance/sweep.js";
import { bytesText, parseDuration } from "../sizes.js";
import { EXIT_FAILED } from "./exit-codes.js";
import { onInterrupt } from "./interrupt.js";
import { Progress } from "./progress.js";

export interface GcFlags extends StorageFlags {
  /** "30d". */
  readonly unusedFor: string;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface GcRow extends SweepCounts {
  readonly tier: string;
  readonly namespace: string;
  readonly model: string;
}

/** Removes blocks that nobody has used for long, of models too that no engine serves any more. Opening a namespace removes what ended
 * writers left behind. */
export async function gc(flags: GcFlags): Promise<void> {
  const unusedMs = parseDuration(flags.unusedFor);
  if (unusedMs === undefined) {
    throw new KvferryError("CONFIG_INVALID", `--unused-for takes a time such as 30d or 12h, got '${flags.unusedFor}'`);
  }
  const interrupt = onInterrupt();
  const progress = new Progress(flags.json !== true);
  const rows: GcRow[] = [];
  await eachStoredNamespace(
    flags,
    async ({ tier, stored: { namespace }, backend }) => {
      const total = backend.manifest.capabilities.usage ? (await backend.usage()).blocks : 0;
      const counts = await sweep(backend, {
        unusedSinceMs: Date.now() - unusedMs,
        dryRun: flags.dryRun === true,
        signal: interrupt.signal,
        onProgress: ({ seen, unused }) =>
          progress.show(`${tier.name} ${namespace.digestHex.slice(0, 12)}`, seen, total, `${unused} unused`),
      });
      progress.end();
      rows.push({ tier: tier.name, namespace: namespace.digestHex, model: namespace.fields.model, ...counts });
      if (flags.json !== true) process.stdout.write(`${line(rows.at(-1) as GcRow, flags)}\n`);
    },
    interrupt.signal,
  );
  const interrupted = interrupt.signal.aborted;
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ interrupted, namespaces: rows }, null, 2)}\n`);
  else if (rows.length === 0) process.stdout.write("nothing is stored\n");
  process.exitCode = interrupt.code() ?? (rows.some(({ failed }) => failed > 0) ? EXIT_FAILED : 0);
}

function line(row: GcRow, { unusedFor, dryRun }: GcFlags): string {
  const what = `${row.unused} of ${row.seen} blocks unused for ${unusedFor}, ${bytesText(row.unusedBytes)}`;
  const done = dryRun === true ? "nothing removed (--dry-run)" : `${row.removed} removed`;
  const failed = row.failed > 0 ? `, ${row.failed} could not be` : "";
  return `${row.tier.padEnd(8)} ${row.namespace.slice(0, 12)} ${row.model}: ${what}: ${done}${failed}`;
}
