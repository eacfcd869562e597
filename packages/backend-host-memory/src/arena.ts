import { KvferryError } from "@kvferry/core";
import { createFileEngine, createRegion, type FileEngine, type MappedRegion } from "@kvferry/native";

export interface HostArenaOptions {
  /** Memory for blocks, all namespaces together. Whole extents of it are used. */
  readonly capacityBytes: number;
  /** What a namespace gets at a time: at least its largest block. Default: a 64th of the capacity, 2 to 64 MiB. */
  readonly extentBytes?: number | undefined;
  /** Moves the bytes; whoever made it closes it. Default: an engine of the arena's own. */
  readonly engine?: FileEngine | undefined;
}

/** What a namespace could give to another one. */
export interface ExtentOffer {
  readonly extent: number;
  /** When any block of the extent was used last. */
  readonly usedAtMs: number;
  /** When the block was used that the namespace would let go next. */
  readonly victimUsedAtMs: number;
}

/** Who has extents of an arena: the backend of a namespace. */
export interface ArenaMember {
  /** The extent that was used longest ago of those that can be given up now. */
  offer(): ExtentOffer | undefined;
  /** Lets everything in the extent go; false if that cannot be now. */
  giveUp(extent: number): Promise<boolean>;
}

const PAGE_BYTES = 4096;
const HUGE_PAGE_BYTES = 2 * 1024 * 1024;
const EXTENT_BYTES_MAX = 64 * 1024 * 1024;
const EXTENTS_DEFAULT = 64;
const ENGINE_THREADS = 4;
/** So many times as old as one's own victim must another namespace's be, before it loses an extent that is in use. An extent takes many blocks with it:
 * two namespaces that are used alike must not take the same one from each other in turns. */
const AGE_FACTOR = 2;
/** And so much older still: ages below are all the same. */
const AGE_SLACK_MS = 1000;

/**
 * Memory for the blocks of all engines of a node: one shared region, of huge pages where the machine has them, never more than its capacity. It is divided into
 * extents, which go to the namespaces as they need them, and from one whose blocks are used less to one whose are used more.
 */
export class HostArena {
  readonly extentBytes: number;
  readonly extents: number;
  readonly engine: FileEngine;
  /** Rows are extents. */
  readonly region: MappedRegion;
  readonly #ownsEngine: boolean;
  readonly #free: number[];
  readonly #members: Set<ArenaMember> = new Set();

  /** @throws KvferryError CONFIG_INVALID with `context.field`, or what the data plane throws when there is not so much memory. */
  constructor({ capacityBytes, extentBytes, engine }: HostArenaOptions) {
    if (!Number.isSafeInteger(capacityBytes) || capacityBytes < PAGE_BYTES) {
      throw invalid("capacityBytes", `must be a whole number of at least ${PAGE_BYTES}, got ${capacityBytes}`);
    }
    this.extentBytes = extentBytes ?? defaultExtent(capacityBytes);
    const { extentBytes: bytes } = this;
    if (!Number.isSafeInteger(bytes) || bytes < PAGE_BYTES || bytes % PAGE_BYTES !== 0 || bytes > capacityBytes) {
      throw invalid("extentBytes", `must be a multiple of ${PAGE_BYTES} up to the capacity, got ${bytes}`);
    }
    this.extents = Math.floor(capacityBytes / bytes);
    this.region = createRegion({ rows: this.extents, rowBytes: bytes }, { hugePages: "try" });
    this.#ownsEngine = engine === undefined;
    this.engine = engine ?? createFileEngine({ threads: ENGINE_THREADS });
    this.#free = Array.from({ length: this.extents }, (_, i) => this.extents - 1 - i);
  }

  /** What the extents have together. */
  get capacityBytes(): number {
    return this.extents * this.extentBytes;
  }

  /** Extents that no namespace has. */
  get freeExtents(): number {
    return this.#free.length;
  }

  /** Ends the arena's own threads and gives the memory back. The backends over it must have been closed. */
  async close(): Promise<void> {
    if (this.#ownsEngine) await this.engine.close();
    this.region.close();
  }

  join(member: ArenaMember): void {
    this.#members.add(member);
  }

  /** May be called again for extents that were in use when the member left.
   * @param extents what the member had. */
  leave(member: ArenaMember, extents: readonly number[]): void {
    this.#members.delete(member);
    this.#free.push(...extents);
  }

  /** An extent that nobody has. */
  takeFree(): number | undefined {
    return this.#free.pop();
  }

  /**
   * An extent of the member with the coldest one, if that was used before `victimUsedAtMs`, when the block was used that the asking member would let go
   * itself; or if that member's own victim is much older. Its blocks have gone when the promise settles.
   */
  async takeFromOthers(member: ArenaMember, victimUsedAtMs: number, nowMs: number): Promise<number | undefined> {
    let best: ExtentOffer | undefined;
    let owner: ArenaMember | undefined;
    for (const other of this.#members) {
      const offer = other === member ? undefined : other.offer();
      if (offer === undefined || offer.usedAtMs >= (best?.usedAtMs ?? Number.POSITIVE_INFINITY)) continue;
      if (!isColder(offer, victimUsedAtMs, nowMs)) continue;
      best = offer;
      owner = other;
    }
    if (best === undefined || owner === undefined) return undefined;
    return (await owner.giveUp(best.extent)) ? best.extent : undefined;
  }
}

function isColder(offer: ExtentOffer, victimUsedAtMs: number, nowMs: number): boolean {
  if (offer.usedAtMs < victimUsedAtMs) return true;
  return nowMs - offer.victimUsedAtMs > AGE_FACTOR * (nowMs - victimUsedAtMs) + AGE_SLACK_MS;
}

function defaultExtent(capacityBytes: number): number {
  if (capacityBytes < HUGE_PAGE_BYTES) return Math.floor(capacityBytes / PAGE_BYTES) * PAGE_BYTES;
  const wanted = Math.ceil(capacityBytes / EXTENTS_DEFAULT / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
  return Math.min(wanted, EXTENT_BYTES_MAX, Math.floor(capacityBytes / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES);
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `host-memory: ${field} ${reason}`, {
    operation: "config",
    context: { field },
  });
}
