import {
  type AuthorContext,
  type CapacityPace,
  type ErrorCode,
  EvictedBlocks,
  type KeyBatch,
  keyAt,
  LateStores,
  Loop,
  packKeys,
  type RecordKind,
  type RootStatus,
  type SharedRoot,
  selectKeys,
  storedBlockBytes,
} from "@kvferry/core";
import type { KnownKeys } from "../known-keys.js";
import type { ObjectNames } from "../names.js";
import type { RequestOptions, S3Requests } from "../requests.js";
import { RecentStores } from "./recent-stores.js";
import { releasePrefix } from "./root.js";
import { StoreRoom } from "./store-room.js";

export interface ShareParts {
  readonly shared: SharedRoot;
  readonly pace: CapacityPace;
  readonly context: AuthorContext;
  readonly requests: S3Requests;
  readonly names: ObjectNames;
  readonly known: KnownKeys;
  /** Aborted when the backend closes. */
  readonly stopping: AbortSignal;
  announce(keys: KeyBatch): void;
  relist(): void;
}

/** One namespace's part in the capacity of its prefix. */
export class CapacityShare {
  readonly #shared: SharedRoot;
  readonly #tenant: string;
  readonly #folder: string;
  readonly #fileBytes: number;
  readonly #lateMs: number;
  readonly #noKeys: KeyBatch;
  readonly #evicted: EvictedBlocks;
  readonly #recent: RecentStores;
  readonly #late: LateStores;
  readonly #lateLoop: Loop;

  constructor({ shared, pace, context, requests, names, known, stopping, announce, relist }: ShareParts) {
    const { namespace, keyBytes, blockBytes, clock } = context;
    this.#shared = shared;
    this.#tenant = namespace.fields.tenant;
    this.#folder = namespace.digestHex;
    this.#fileBytes = storedBlockBytes(blockBytes);
    this.#lateMs = pace.lateMs;
    this.#noKeys = packKeys([], keyBytes);
    const options: RequestOptions = { signal: stopping, priority: "store" };
    const exists = async (key: Uint8Array): Promise<boolean> =>
      (await requests.head(names.block(key), options)) !== undefined;
    const existing = async (keys: KeyBatch): Promise<Uint8Array> => {
      const asked = Array.from({ length: keys.count }, (_, i) => exists(keyAt(keys, i)));
      return Uint8Array.from(await Promise.all(asked), Number);
    };
    const recent = new RecentStores(() => clock.monotonicMs());
    this.#recent = recent;
    this.#evicted = new EvictedBlocks({
      folder: this.#folder,
      known,
      remain: (keys) => recent.there(keys, existing),
      announce(keys) {
        recent.forget(keys);
        announce(keys);
      },
      relist,
    });
    this.#late = new LateStores(keyBytes, {
      lateMs: pace.lateMs,
      monotonicMs: () => clock.monotonicMs(),
      exists,
      settle: (keys) => this.#settle(1, keys, 0),
    });
    // whatever fails is tried again: until then the room is held
    this.#lateLoop = new Loop(
      () => this.#late.turn(),
      () => {},
    );
    shared.join(this.#evicted);
  }

  get status(): RootStatus {
    return this.#shared.status;
  }

  /** Why no room can come at present. */
  get trouble(): ErrorCode | undefined {
    return this.#shared.trouble;
  }

  /** Room for the blocks at these positions, or for the first ones of them. To be ended by its `settle`. */
  async reserve(keys: KeyBatch, positions: readonly number[], signal: AbortSignal | undefined): Promise<StoreRoom> {
    const wanted = selectKeys(keys, positions); // the caller may reuse its keys after an abort
    const count =
      positions.length === 0 ? 0 : await this.#shared.reserve(this.#tenant, positions.length, this.#fileBytes, signal);
    return new StoreRoom(wanted, positions, count, {
      stored: (reserved, stored) => {
        this.#settle(reserved, stored, 0);
        for (let i = 0; i < stored.count; i++) this.#recent.add(keyAt(stored, i));
      },
      late: (key) => {
        this.#late.add(key);
        this.#lateLoop.kick();
      },
    });
  }

  /** Room for the copy of a damaged block, if there is some at once. To be ended by `copied`, whether it was made or not: a recount finds it. */
  async reserveCopy(): Promise<boolean> {
    return (await this.#shared.reserve(this.#tenant, 1, this.#fileBytes, AbortSignal.abort())) === 1;
  }

  copied(): void {
    this.#loseLater(1);
  }

  /** Tells how blocks are used, or that they have gone. */
  tell(kind: RecordKind, keys: KeyBatch): void {
    this.#shared.tell(kind, this.#folder, keys);
  }

  /** No store may be under way. */
  async close(): Promise<void> {
    this.#shared.leave(this.#evicted);
    await this.#lateLoop.stop();
    this.#loseLater(this.#late.giveUp());
    await releasePrefix(this.#shared);
  }

  /** What nobody looks for is left to a recount, when it cannot take effect any more. If the root is closed before that, its leader waits as long. */
  #loseLater(count: number): void {
    if (count > 0) setTimeout(() => this.#settle(count, this.#noKeys, count), this.#lateMs).unref();
  }

  #settle(reserved: number, keys: KeyBatch, lost: number): void {
    this.#shared.settle(this.#tenant, reserved, this.#fileBytes, this.#folder, keys, lost);
  }
}
