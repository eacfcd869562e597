import type { ChildProcess } from "node:child_process";
import type { RootStatus, Usage } from "@kvferry/core";

export interface CapacityAnswer {
  readonly usage?: Usage;
  readonly status?: RootStatus;
}

/** A child process that runs capacity-server.mjs's server. */
export class CapacityProcess {
  readonly child: ChildProcess;
  readonly done: { readonly stored: number; readonly loaded: number; readonly failed: number; readonly wrong: number };
  readonly leads: boolean;
  readonly isOpen: boolean;
  /** For the test's own use: it stands still until it is told to go on. */
  stopped: boolean;
  /** @param args of node. */
  constructor(args: readonly string[]);
  tell(command: "go"): void;
  usage(): Promise<CapacityAnswer>;
  kill(): Promise<void>;
  /** Stands still when this returns, all threads of it. */
  freeze(): Promise<void>;
  thaw(): void;
}

/** Rejects after `triesMax` looks, 10 ms apart; default 3000. */
export function until(what: string, done: () => boolean, triesMax?: number): Promise<void>;

/** The leader as often as not, else any of them. */
export function pickServer(servers: readonly CapacityProcess[]): CapacityProcess;
