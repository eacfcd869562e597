import type { Priority } from "@kvferry/core";

/** Of this many sockets one is kept from stores, so that slow stores hold up no load. */
const SOCKETS_PER_RESERVED = 8;

interface Waiter {
  readonly priority: Priority;
  readonly enter: () => void;
}

/** Lets a bounded number of requests on their way, loads before stores. */
export class SocketGate {
  readonly #socketsMax: number;
  readonly #storesMax: number;
  readonly #waiting: Record<Priority, Set<Waiter>> = { load: new Set(), store: new Set() };
  #running = 0;
  #stores = 0;

  constructor(socketsMax: number) {
    this.#socketsMax = socketsMax;
    this.#storesMax = socketsMax === 1 ? 1 : socketsMax - Math.ceil(socketsMax / SOCKETS_PER_RESERVED);
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return this.#waiting.load.size + this.#waiting.store.size;
  }

  /** Runs `request` when it is its turn.
   * @throws the signal's reason, at once, when it is aborted before. */
  async run<T>(priority: Priority, signal: AbortSignal | undefined, request: () => Promise<T>): Promise<T> {
    signal?.throwIfAborted();
    if (this.#mayEnter(priority) && this.#waiting[priority].size === 0) this.#enter(priority);
    else await this.#wait(priority, signal);
    try {
      return await request();
    } finally {
      this.#leave(priority);
    }
  }

  #mayEnter(priority: Priority): boolean {
    return this.#running < this.#socketsMax && (priority === "load" || this.#stores < this.#storesMax);
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
        priority,
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
