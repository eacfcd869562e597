import { createInterface } from "node:readline";

/** Longest line taken from another process. */
const LINE_BYTES_MAX = 1 << 20;

/** Calls `each` for every line of a stream that is a JSON object; others (a remote shell's greeting) are passed over. */
export function readLines(stream: NodeJS.ReadableStream, each: (message: Record<string, unknown>) => void): void {
  createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY }).on("line", (line) => {
    const message = line.length > LINE_BYTES_MAX ? undefined : parsed(line);
    if (message !== undefined) each(message);
  });
}

export function writeLine(stream: NodeJS.WritableStream, message: object): void {
  stream.write(`${JSON.stringify(message)}\n`);
}

function parsed(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
