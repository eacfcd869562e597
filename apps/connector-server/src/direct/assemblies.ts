import { Background, type BatchResult, type KeyBatch, KvferryError } from "@kvferry/core";
import type { Device } from "@kvferry/native";
import { Assembly, type AssemblyOptions } from "./assembly.js";
import type { Pages } from "./pages.js";

export interface AssembliesOptions extends Omit<AssemblyOptions, "keys" | "settled"> {
  /** Ms that all parts of a ticket may take. */
  readonly deadlineMs: number;
  /** Bytes that the keys of open tickets may take. */
  readonly keyBytesMax: number;
  /** Every chunk of a ticket has its outcome. */
  stored(ticket: number, result: BatchResult): void;
}

interface Open {
  readonly assembly: Assembly;
  timer: NodeJS.Timeout;
}

/** A part of the chunks of a ticket. */
export interface TicketPart {
  readonly ticket: number;
  readonly keys: KeyBatch;
  readonly part: number;
  readonly device: Device;
  readonly pages: Pages;
}

/** The tickets of an engine whose chunks have not all their outcomes, or that a worker has yet to come to. */
export class Assemblies {
  readonly #options: AssembliesOptions;
  readonly #open: Map<number, Open> = new Map();
  readonly #stores: Background = new Background();
  #keyBytes = 0;

  constructor(options: AssembliesOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#open.size;
  }

  /** Copies a worker's part of a ticket's chunks.
   * @throws KvferryError INVALID_ARGUMENT with `context.field` where it does not fit what other workers said of the ticket, BUSY for too many open tickets. */
  async gather({ ticket, keys, part, device, pages }: TicketPart, signal: AbortSignal): Promise<BatchResult> {
    const { assembly } = this.#open.get(ticket) ?? this.#begin(ticket, keys);
    if (Buffer.compare(assembly.keys.bytes, keys.bytes) !== 0) {
      throw invalid("keys", `are not those that another worker has given ticket ${ticket}`);
    }
    if (assembly.hasPart(part)) throw invalid("ticket", `${ticket} has part ${part} already`);
    const gathering = assembly.gather(part, device, pages, signal);
    this.#checkOver(ticket, assembly);
    return gathering;
  }

  /** No more parts come. */
  endAll(): void {
    for (const [ticket, { assembly }] of this.#open) {
      assembly.end("ABORTED");
      this.#remove(ticket);
    }
  }

  /** When no store of theirs is under way. */
  idle(): Promise<void> {
    return this.#stores.idle();
  }

  #begin(ticket: number, keys: KeyBatch): Open {
    const { store, stored, keyBytesMax, deadlineMs } = this.#options;
    if (this.#keyBytes + keys.bytes.length > keyBytesMax) {
      throw new KvferryError("BUSY", `tickets that are not over may have ${keyBytesMax} bytes of keys`, {
        operation: "gather",
      });
    }
    const assembly = new Assembly({
      ...this.#options,
      keys,
      store: (some, slots) => this.#stores.start(() => store(some, slots)),
      settled: (result) => {
        stored(ticket, result);
        this.#checkOver(ticket, assembly);
      },
    });
    const open = { assembly, timer: setTimeout(() => this.#late(ticket, open), deadlineMs) };
    this.#open.set(ticket, open);
    this.#keyBytes += keys.bytes.length;
    void assembly.decide();
    return open;
  }

  /** Workers that come even later still hear what became of the chunks, for as long again. */
  #late(ticket: number, open: Open): void {
    open.assembly.end("DEADLINE");
    if (this.#open.get(ticket) !== open) return;
    open.timer = setTimeout(() => this.#remove(ticket), this.#options.deadlineMs);
  }

  #checkOver(ticket: number, assembly: Assembly): void {
    const isOver = assembly.isSettled && assembly.hasAllParts;
    if (isOver && this.#open.get(ticket)?.assembly === assembly) this.#remove(ticket);
  }

  #remove(ticket: number): void {
    const open = this.#open.get(ticket);
    if (open === undefined) return;
    clearTimeout(open.timer);
    this.#open.delete(ticket);
    this.#keyBytes -= open.assembly.keys.bytes.length;
  }
}

function invalid(field: string, reason: string): KvferryError {
  return new KvferryError("INVALID_ARGUMENT", `gather: '${field}' ${reason}`, {
    operation: "gather",
    context: { field },
  });
}
