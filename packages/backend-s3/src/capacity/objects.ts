import type { CapacityObjects } from "@kvferry/core";
import { runningChecksum } from "../checksum.js";
import { pages } from "../listing.js";
import { readObject } from "../read-object.js";
import type { RequestOptions, S3Requests } from "../requests.js";

const OPTIONS: RequestOptions = { priority: "load" };
const checksum = runningChecksum();

/** The objects below `prefix`, which ends in a slash, as the capacity's protocol uses them: names are without it. */
export function capacityObjects(requests: S3Requests, prefix: string): CapacityObjects {
  const put = (name: string, bytes: Uint8Array, condition: boolean) =>
    requests.put(`${prefix}${name}`, [bytes], checksum(bytes), condition, OPTIONS, "capacity");
  return {
    async list() {
      const found: { name: string; bytes: number }[] = [];
      for await (const page of pages(requests, prefix, undefined, OPTIONS)) {
        for (const { name, bytes } of page) found.push({ name: name.slice(prefix.length), bytes });
      }
      return found;
    },
    get: (name, offset, bytesMax) => readObject(requests, `${prefix}${name}`, [offset, offset + bytesMax - 1], OPTIONS),
    async put(name, bytes) {
      await put(name, bytes, false);
    },
    create: async (name, bytes) => (await put(name, bytes, true)) === "created",
    remove: (name) => requests.delete(`${prefix}${name}`, OPTIONS),
  };
}
