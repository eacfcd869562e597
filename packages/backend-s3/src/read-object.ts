import { KvferryError } from "@kvferry/core";
import type { RequestOptions, S3Requests } from "./requests.js";

/** The bytes of a range of a small object, both ends included, as far as there are any; undefined if there is no object. */
export async function readObject(
  requests: S3Requests,
  name: string,
  range: [from: number, to: number],
  options: RequestOptions,
): Promise<Uint8Array | undefined> {
  const chunks: Buffer[] = [];
  const sink = {
    head: () => true,
    chunk: (bytes: Uint8Array): boolean => chunks.push(Buffer.from(bytes)) > 0,
  };
  try {
    return (await requests.read(name, sink, options, range)) ? Buffer.concat(chunks) : undefined;
  } catch (thrown) {
    if (thrown instanceof KvferryError && thrown.context.httpStatus === 416) return new Uint8Array(0); // beyond its end
    throw thrown;
  }
}
