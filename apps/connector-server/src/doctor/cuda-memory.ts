import { type ChildProcess, spawn } from "node:child_process";
import { KvferryError, toKvferryError } from "@kvferry/core";
import { allocateCudaMemory, crc32c } from "@kvferry/native";
import { readLines, writeLine } from "./lines.js";
import { ownCommand } from "./own-command.js";

/** Plays the engine: a process that has memory on a GPU, and sees itself what is in it. */
export class CudaMemoryOwner {
  readonly #process: ChildProcess;
  readonly #waiting: ((message: Record<string, unknown>) => void)[] = [];
  #said = "";

  constructor(uuid: Uint8Array, bytes: number) {
    const [command, args] = ownCommand("doctor", "--cuda-memory", Buffer.from(uuid).toString("hex"), String(bytes));
    this.#process = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#process.stderr?.on("data", (chunk: Buffer) => {
      this.#said = `${this.#said}${chunk}`.slice(-1000);
    });
    readLines(this.#process.stdout as NodeJS.ReadableStream, (message) => this.#waiting.shift()?.(message));
    this.#process.on("exit", () => {
      const message = `the process that owns the memory has ended: ${this.#said.trim()}`;
      for (const each of this.#waiting.splice(0)) each({ code: "INTERNAL", message });
    });
    this.#process.stdin?.on("error", () => {}); // its end says more
  }

  /** Allocates. @throws KvferryError of the driver. */
  async handle(): Promise<Uint8Array> {
    return Buffer.from(String((await this.#told()).handle), "hex");
  }

  /** CRC-32C of the memory, read by its owner. */
  async sum(): Promise<number> {
    const told = this.#told();
    writeLine(this.#process.stdin as NodeJS.WritableStream, { sum: true });
    return Number((await told).sum);
  }

  end(): void {
    this.#process.stdin?.end();
  }

  async #told(): Promise<Record<string, unknown>> {
    const message = await new Promise<Record<string, unknown>>((fulfil) => {
      if (this.#process.exitCode === null) this.#waiting.push(fulfil);
      else fulfil({ code: "INTERNAL", message: `the process that owns the memory has ended: ${this.#said.trim()}` });
    });
    if (typeof message.code !== "string") return message;
    const { code } = toKvferryError(Object.assign(new Error(), { code: message.code }), "doctor");
    throw new KvferryError(code, String(message.message), { operation: "doctor" });
  }
}

/** What that process does, until its stdin ends. */
export function ownCudaMemory(uuid: string, bytes: number): void {
  const answer = (action: () => object): void => {
    try {
      writeLine(process.stdout, action());
    } catch (thrown) {
      const { code, message } = toKvferryError(thrown, "doctor");
      writeLine(process.stdout, { code, message });
    }
  };
  answer(() => {
    const memory = allocateCudaMemory(Buffer.from(uuid, "hex"), bytes);
    readLines(process.stdin, () => answer(() => ({ sum: crc32c(memory.read()) })));
    process.stdin.on("end", () => memory.close());
    return { handle: Buffer.from(memory.handle).toString("hex") };
  });
}
