import { type ScrubCounts, scrub } from "../maintenance/scrub.js";
import { eachStoredNamespace, type StorageFlags } from "../maintenance/stored-blocks.js";
import { bytesText } from "../sizes.js";
import { sizeOf } from "../storage/tier-config.js";
import { EXIT_FAILED } from "./exit-codes.js";
import { onInterrupt } from "./interrupt.js";
import { Progress } from "./progress.js";

export interface VerifyFlags extends StorageFlags {
  /** Bytes a second. */
  readonly rate?: string;
  readonly json?: boolean;
}

interface VerifyRow extends ScrubCounts {
  readonly tier: string;
  readonly namespace: string;
  readonly model: string;
  readonly seconds: number;
}

/** Reads every block and has it verified; damaged ones are set aside by the backend. Exit code 1 if there were any, or some could not be read. */
export async function verify(flags: VerifyFlags): Promise<void> {
  const rateBytesMax = sizeOf("--rate", flags.rate);
  const interrupt = onInterrupt();
  const progress = new Progress(flags.json !== true);
  const rows: VerifyRow[] = [];
  await eachStoredNamespace(
    flags,
    async ({ tier, stored: { namespace }, backend }) => {
      const startedMs = performance.now();
      const total = backend.manifest.capabilities.usage ? (await backend.usage()).blocks : 0;
      const label = `${tier.name} ${namespace.digestHex.slice(0, 12)}`;
      const counts = await scrub(backend, {
        rateBytesMax,
        signal: interrupt.signal,
        onProgress: ({ blocks, corrupt }) =>
          progress.show(label, blocks, total, `${blocks} blocks, ${corrupt} damaged`),
      });
      progress.end();
      const seconds = (performance.now() - startedMs) / 1000;
      rows.push({ tier: tier.name, namespace: namespace.digestHex, model: namespace.fields.model, ...counts, seconds });
      if (flags.json !== true) process.stdout.write(`${line(rows.at(-1) as VerifyRow)}\n`);
    },
    interrupt.signal,
  );
  const interrupted = interrupt.signal.aborted;
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ interrupted, namespaces: rows }, null, 2)}\n`);
  else if (rows.length === 0) process.stdout.write("nothing is stored\n");
  const bad = rows.some(({ corrupt, failed }) => corrupt + failed > 0);
  process.exitCode = interrupt.code() ?? (bad ? EXIT_FAILED : 0);
}

function line({ tier, namespace, model, blocks, bytes, corrupt, failed, gone, seconds }: VerifyRow): string {
  const rate = `${bytesText(bytes / Math.max(seconds, 0.001))}/s`;
  const more = [
    ...(corrupt > 0 ? [`${corrupt} damaged, set aside`] : []),
    ...(failed > 0 ? [`${failed} not readable`] : []),
    ...(gone > 0 ? [`${gone} gone meanwhile`] : []),
  ];
  const verdict = more.length === 0 ? "all sound" : more.join(", ");
  return `${tier.padEnd(8)} ${namespace.slice(0, 12)} ${model}: ${blocks} blocks, ${bytesText(bytes)} at ${rate}: ${verdict}`;
}
