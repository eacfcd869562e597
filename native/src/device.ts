/** `Device` over the addon: what is added here is cancelling, by AbortSignal and by `close`. */
import { abortedResult, CLOSED, cancellable, failedResult, newTicket } from "./cancel.js";
import type { AddonDevice, AddonEngine } from "./load.js";
import type { BlockResult, Device, DeviceCopies, DeviceStats, OpenDeviceOptions } from "./types.js";

/** A page that is not there: it is not copied. */
export const NO_BLOCK = 0xffff_ffff;

class NativeDevice implements Device {
  readonly #engine: AddonEngine;
  readonly #device: AddonDevice;
  /** By their tickets. */
  readonly #running = new Map<number, Promise<BlockResult>>();
  #closed: Promise<void> | undefined;
  readonly partBytes: number;

  constructor(engine: AddonEngine, device: AddonDevice) {
    this.#engine = engine;
    this.#device = device;
    this.partBytes = device.partBytes;
  }

  gather(copies: DeviceCopies): Promise<BlockResult> {
    return this.#copy(false, copies);
  }

  scatter(copies: DeviceCopies): Promise<BlockResult> {
    return this.#copy(true, copies);
  }

  async #copy(scatter: boolean, copies: DeviceCopies): Promise<BlockResult> {
    const { signal } = copies;
    if (this.#closed !== undefined) return failedResult(copies.groups.length, CLOSED);
    if (signal?.aborted) return abortedResult(copies.groups.length, signal);
    const ticket = newTicket();
    const call = (): Promise<BlockResult> => this.#device.copy(scatter, copies, ticket);
    const running = cancellable(this.#engine, signal, call, ticket);
    this.#running.set(ticket, running);
    try {
      return await running;
    } finally {
      this.#running.delete(ticket);
    }
  }

  stats(): DeviceStats {
    return this.#device.stats();
  }

  close(): Promise<void> {
    this.#closed ??= this.#end();
    return this.#closed;
  }

  async #end(): Promise<void> {
    for (const ticket of this.#running.keys()) this.#engine.cancel(ticket, CLOSED);
    await Promise.allSettled(this.#running.values());
    await this.#device.close();
  }
}

export async function openNativeDevice(engine: AddonEngine, options: OpenDeviceOptions): Promise<Device> {
  return new NativeDevice(engine, await engine.openDevice(options));
}
