import type { Priority } from "@kvferry/core";

/** Of this many places one is kept from stores, so that slow stores hold up no load. */
const PLACES_PER_RESERVED = 8;

interface Waiter {
  readonly enter: () => void;
}

/** Lets a bounded number of files be moved at once, loads before stores. */
export class FileGate {
  readonly #filesMax: number;
  readonly #storesMax: number;
  readonly #waiting: Record<Priority, Set<Waiter>> = { load: new Set(), store: new Set() };
  #running = 0;
  #stores = 0;

  constructor(filesMax: number) {
    this.#filesMax = filesMax;
    this.#storesMax = filesMax === 1 ? 1 : filesMax - Math.ceil(filesMax / PLACES_PER_RESERVED);
  }

  /** Ends when a place is free, and has taken it: `leave` gives it back.
   * @throws the signal's reason, at once, when it is aborted before. */
  async enter(priority: Priority, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    if (this.#mayEnter(priority) && this.#waiting[priority].size === 0) this.#take(priority);
    else await this.#wait(priority, signal);
  }

  leave(priority: Priority): void {
    this.#running--;
    if (priority === "store") this.#stores--;
    for (const each of ["load", "store"] as const) {
      for (const waiter of this.#waiting[each]) {
        if (!this.#mayEnter(each)) break;
        this.#waiting[each].delete(waiter);
        this.#take(each);
        waiter.enter();
      }
    }
  }

  #mayEnter(priority: Priority): boolean {
    return this.#running < this.#filesMax && (priority === "load" || this.#stores < this.#storesMax);
  }

  #take(priority: Priority): void {
    this.#running++;
    if (priority === "store") this.#stores++;
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
