import { type LustreConfig, STRIPE_BYTES_MAX, STRIPE_STEP_BYTES } from "../config.js";

/** The default layout of a folder, as `lfs` has it. */
export interface Layout {
  readonly stripeCount: number;
  readonly stripeBytes: number;
  readonly pool: string | undefined;
  /** Bytes at the start of a file that lie on the MDT; 0: none. */
  readonly mdtBytes: number;
}

/** What a folder has of its own: a layout that we know how to read, or one of several components that was made by somebody who knows. */
export type FoundLayout = Layout | "none" | "composite";

/** One OST gives a file of this size fast enough; many files spread over the OSTs by themselves. */
const ONE_STRIPE_BYTES_MAX = 16 << 20;
const STRIPES_BY_DEFAULT_MAX = 8;
/** lod.*.dom_stripesize as servers have it by default. */
const MDT_BYTES_MAX = 1 << 20;

/** The layout for files of this size: a file on one OST, or on a few when it is large, in stripes of equal size, none of which is moved in two
 * halves. */
export function layoutFor(fileBytes: number, config: LustreConfig): Layout {
  const stripeCount = config.stripeCount ?? defaultCount(fileBytes);
  const each = stripeCount > 0 ? fileBytes / stripeCount : ONE_STRIPE_BYTES_MAX;
  const stripeBytes = config.stripeBytes ?? Math.min(STRIPE_BYTES_MAX, roundUp(each));
  const mdtBytes = config.dataOnMdt === true && roundUp(fileBytes) <= MDT_BYTES_MAX ? roundUp(fileBytes) : 0;
  return { stripeCount, stripeBytes, pool: config.pool, mdtBytes };
}

function defaultCount(fileBytes: number): number {
  return Math.min(STRIPES_BY_DEFAULT_MAX, Math.ceil(fileBytes / ONE_STRIPE_BYTES_MAX));
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / STRIPE_STEP_BYTES) * STRIPE_STEP_BYTES;
}

/** Arguments of `lfs setstripe`, the folder left out. */
export function setstripeArguments({ stripeCount, stripeBytes, pool, mdtBytes }: Layout): string[] {
  const onOsts = ["-c", String(stripeCount), "-S", String(stripeBytes), ...(pool === undefined ? [] : ["-p", pool])];
  return mdtBytes === 0 ? onOsts : ["-E", String(mdtBytes), "-L", "mdt", "-E", "-1", ...onOsts];
}

/** Reads what `lfs getstripe -d --raw FOLDER` prints. Zeros say that nothing was set: lfs-getstripe(1), `--raw`. */
export function parseLayout(text: string): FoundLayout {
  if (/^\s*lcm_/m.test(text)) return parseMdtLayout(text);
  const field = (name: string): string | undefined => new RegExp(`(?:lmm_)?${name}:[ \\t]*(\\S+)`).exec(text)?.[1];
  const stripeCount = Number(field("stripe_count") ?? 0);
  const stripeBytes = Number(field("stripe_size") ?? 0);
  const pool = field("pool");
  if (stripeCount === 0 && stripeBytes === 0 && pool === undefined) return "none";
  return { stripeCount, stripeBytes, pool, mdtBytes: 0 };
}

/** The one composite layout that we make ourselves: all of a small file on the MDT, the rest, of which there is none, on OSTs. */
function parseMdtLayout(text: string): FoundLayout {
  const parts = text.split(/lcme_id:/).slice(1);
  const [first, second] = parts;
  if (parts.length !== 2 || first === undefined || second === undefined) return "composite";
  if (!/(?:lmm_)?pattern:\s*mdt/.test(first)) return "composite";
  const end = Number(/lcme_extent\.e_end:\s*(\d+)/.exec(first)?.[1]);
  const rest = parseLayout(second);
  return typeof rest === "string" || Number.isNaN(end) ? "composite" : { ...rest, mdtBytes: end };
}

/** Whether files get the same layout. */
export function isSameLayout(a: Layout, b: Layout): boolean {
  return setstripeArguments(a).join() === setstripeArguments(b).join();
}

/** For people. */
export function layoutText(layout: FoundLayout): string {
  if (layout === "none") return "none of its own";
  if (layout === "composite") return "of several components";
  const { stripeCount, stripeBytes, pool, mdtBytes } = layout;
  const count = stripeCount === 1 ? "1 stripe" : stripeCount === -1 ? "stripes on all OSTs" : `${stripeCount} stripes`;
  const onMdt = mdtBytes === 0 ? "" : `the first ${mdtBytes} bytes on the MDT, then `;
  return `${onMdt}${count} of ${stripeBytes} bytes${pool === undefined ? "" : ` in the pool ${pool}`}`;
}
