import type { Priority } from "./call.js";

/** Of this many places one is kept from stores, so that slow stores hold up no load. */
const PLACES_PER_RESERVED = 8;

interface Waiter {
  readonly enter: () => void;
}

/** Lets a bounded number of tasks run at once, loads before stores. */
export class PriorityGate {
  readonly #placesMax: number;
  readonly #storesMax: number;
  readonly #waiting: Record<Priority, Set<Waiter>> = { load: new Set(), store: new Set() };
  #running = 0;
  #stores = 0;

  constructor(placesMax: number) {
    this.#placesMax = placesMax;
    this.#storesMax = placesMax === 1 ? 1 : placesMax - Math.ceil(placesMax / PLACES_PER_RESERVED);
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting.load.size + this.#waiting.store.size;
  }

  /** Runs `task` when it is its turn. Its place is free again when it has ended, however that was.
   * @throws the signal's reason, at once, when it is aborted before; what `task` throws. */
  async run<T>(priority: Priority, signal: AbortSignal | undefined, task: () => Promise<T>): Promise<T> {
    signal?.throwIfAborted();
    if (this.#mayEnter(priority) && this.#waiting[priority].size === 0) this.#enter(priority);
    else await this.#wait(priority, signal);
    try {
      return await task();
    } finally {
      this.#leave(priority);
    }
  }

  #mayEnter(priority: Priority): boolean {
    return this.#running < this.#placesMax && (priority === "load" || this.#stores < this.#storesMax);
  }

  #enter(priority: Priority): void {
    this.#running++;
    if (priority === "store") this.#stores++;
  }

  #leave(priority: Priority): void {
    this.#running--;
    if (priority === "store") this.#stores--;
    for (const each of ["load", "store"] as const) {
      for (const waiter of this.#waiting[each]) {
        if (!this.#mayEnter(each)) break;
        this.#waiting[each].delete(waiter);
        this.#enter(each);
        waiter.enter();
      }
    }
  }

  #wait(priority: Priority, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting[priority].delete(waiter);
        reject(signal?.reason);
      };
      const waiter: Waiter = {
        enter: () => {
          signal?.removeEventListener("abort", onAbort);
          resolve();
        },
      };
      this.#waiting[priority].add(waiter);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }
}
