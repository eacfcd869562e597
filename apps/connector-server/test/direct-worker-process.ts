import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { type MappedRegion, mapRegionPath } from "@kvferry/native";
import type { Chunks, WorkerConnectOptions } from "@kvferry/protocol";
import { onTestFinished } from "vitest";
import { programOf } from "./child-server.js";

/** What the program is started with. */
export interface WorkerOptions extends Omit<WorkerConnectOptions, "memory"> {
  readonly memoryBytes: number;
}

export interface WorkerOrder {
  readonly id: number;
  readonly operation: "gather" | "scatter";
  readonly ticket: number;
  /** Base64. */
  readonly keys: string;
  readonly stride: number;
  readonly blocks: readonly number[];
}

export interface WorkerAnswer {
  readonly id: number;
  readonly outcomes?: readonly number[];
  readonly error?: string;
  /** Of its memory; in the first message. */
  readonly fd?: number;
}

/** A worker in a process of its own. */
export class WorkerProcess {
  /** Its memory, mapped here too. */
  readonly region: MappedRegion;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: WorkerAnswer) => void>();
  #next = 0;

  private constructor(child: ChildProcess, region: MappedRegion) {
    this.#child = child;
    this.region = region;
    child.on("message", (answer: WorkerAnswer) => this.#waiting.get(answer.id)?.(answer));
  }

  static async start(options: WorkerOptions): Promise<WorkerProcess> {
    const program = await programOf("test/direct-worker-program.ts");
    const child = spawn(process.execPath, [program, JSON.stringify(options)], {
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    const [{ fd }] = (await once(child, "message")) as [WorkerAnswer];
    const region = mapRegionPath(`/proc/${child.pid}/fd/${fd}`, { rows: 1, rowBytes: options.memoryBytes });
    onTestFinished(() => region.close());
    return new WorkerProcess(child, region);
  }

  /** The outcomes; never settles once the process has been killed.
   * @throws Error that the client of the worker has thrown. */
  async order(operation: "gather" | "scatter", ticket: number, { keys, blocks }: Chunks): Promise<number[]> {
    const id = this.#next++;
    const answered = new Promise<WorkerAnswer>((resolve) => this.#waiting.set(id, resolve));
    const packed = Buffer.from(keys.bytes).toString("base64");
    const order: WorkerOrder = { id, operation, ticket, keys: packed, stride: keys.stride, blocks: [...blocks] };
    this.#child.send(order);
    const { outcomes, error } = await answered;
    if (outcomes === undefined) throw new Error(error);
    return [...outcomes];
  }

  /** kill -9, and waits until it has ended. */
  async kill(): Promise<void> {
    const end = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await end;
  }
}
