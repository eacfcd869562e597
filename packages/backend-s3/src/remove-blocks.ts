import { KvferryError } from "@kvferry/core";
import type { RequestOptions, S3Requests } from "./requests.js";

/** S3's own bound of one request. */
const OBJECTS_PER_REQUEST = 1000;
/** So many objects are deleted one by one. */
const SINGLY_MAX = 3;

/** Deletes objects in as few requests as the storage allows; the error of each that is still there. */
export class BlockRemover {
  readonly #requests: S3Requests;
  /** Some storages delete one object at a time only. */
  #inBatches = true;

  constructor(requests: S3Requests) {
    this.#requests = requests;
  }

  async remove(names: readonly string[], options: RequestOptions): Promise<Map<string, unknown>> {
    const errors = new Map<string, unknown>();
    for (let at = 0; at < names.length; at += OBJECTS_PER_REQUEST) {
      const part = names.slice(at, at + OBJECTS_PER_REQUEST);
      try {
        for (const [name, error] of await this.#removePart(part, options)) errors.set(name, error);
      } catch (thrown) {
        for (const name of part) errors.set(name, thrown);
      }
    }
    return errors;
  }

  async #removePart(names: readonly string[], options: RequestOptions): Promise<Map<string, unknown>> {
    if (this.#inBatches && names.length > SINGLY_MAX) {
      try {
        return await this.#requests.deleteMany(names, options);
      } catch (thrown) {
        if (!(thrown instanceof KvferryError) || thrown.code !== "UNSUPPORTED") throw thrown;
        this.#inBatches = false;
      }
    }
    const errors = new Map<string, unknown>();
    const deleting = names.map((name) =>
      this.#requests.delete(name, options).catch((thrown: unknown) => errors.set(name, thrown)),
    );
    await Promise.all(deleting);
    return errors;
  }
}
