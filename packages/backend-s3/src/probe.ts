import { randomBytes } from "node:crypto";
import { KvferryError } from "@kvferry/core";
import { runningChecksum } from "./checksum.js";
import { resolveConfig, type S3Config } from "./config.js";
import { readObject } from "./read-object.js";
import { type RequestOptions, S3Requests } from "./requests.js";
import { rootOf } from "./stored-namespaces.js";

const MIB = 2 ** 20;
const CELLS = [
  { objectBytes: MIB, depth: 1, objects: 8 },
  { objectBytes: MIB, depth: 16, objects: 48 },
  { objectBytes: 8 * MIB, depth: 16, objects: 16 },
] as const;

export interface S3Speed {
  readonly objectBytes: number;
  /** Requests under way at a time. */
  readonly depth: number;
  readonly putBytesPerSecond: number;
  readonly getBytesPerSecond: number;
}

/** What a bucket does, each tried. */
export interface S3Facts {
  readonly bucket: string;
  readonly prefix: string;
  readonly endpoint: string | undefined;
  /** Whether a put with `If-None-Match: *` onto a name that is taken is refused. */
  readonly conditionalCreate: boolean;
  /** Whether a put whose CRC-32C is not that of its bytes is refused. */
  readonly verifiesChecksum: boolean;
  /** Whether a range of an object is answered with those bytes alone. */
  readonly ranges: boolean;
  /** Whether an object is listed as soon as its put has ended. */
  readonly listsAtOnce: boolean;
  /** Whether an upload in parts works, and takes a checksum of the whole. */
  readonly multipart: "no" | "yes" | "with a checksum of the whole";
  /** Ms of a HEAD, half of them were no slower. */
  readonly headMs: number;
  readonly speeds: readonly S3Speed[];
}

export interface S3ProbeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called when a step begins: of 100 parts of the whole, those that are done. */
  onStep?(done: number, step: string): void;
}

/** Finds out what a bucket does, with objects below a name of its own, removed afterwards.
 * @throws KvferryError that names what is wrong with bucket, region, credentials or network. */
export async function probeS3(config: S3Config, { signal, onStep }: S3ProbeOptions = {}): Promise<S3Facts> {
  const resolved = resolveConfig(config);
  const { bucket, prefix, endpoint } = resolved;
  const requests = new S3Requests(resolved);
  const root = `${rootOf(prefix)}kvferry-doctor-${randomBytes(8).toString("hex")}/`;
  const probe = new Probe(requests, root, { signal, priority: "store" });
  try {
    onStep?.(0, "access");
    await probe.access();
    onStep?.(10, "what its requests do");
    const facts = {
      conditionalCreate: await probe.conditionalCreate(),
      verifiesChecksum: await probe.verifiesChecksum(),
      ranges: await probe.ranges(),
      listsAtOnce: await probe.listsAtOnce(),
      multipart: await probe.multipart(),
      headMs: await probe.headMs(),
    };
    const speeds: S3Speed[] = [];
    for (const [i, cell] of CELLS.entries()) {
      onStep?.(30 + i * 20, `${cell.objectBytes / MIB} MiB, ${cell.depth} at a time`);
      speeds.push(await probe.speed(cell));
    }
    return { bucket, prefix, endpoint, ...facts, speeds };
  } finally {
    onStep?.(90, "taking it away");
    await probe.removeAll().catch(() => {}); // what the probe has thrown says more
    requests.close();
  }
}

class Probe {
  readonly #requests: S3Requests;
  readonly #root: string;
  readonly #options: RequestOptions;
  readonly #checksum: ReturnType<typeof runningChecksum> = runningChecksum();
  readonly #names: Set<string> = new Set();

  constructor(requests: S3Requests, root: string, options: RequestOptions) {
    this.#requests = requests;
    this.#root = root;
    this.#options = options;
  }

  async access(): Promise<void> {
    await this.#requests.list({ prefix: this.#root, objectsMax: 1 }, this.#options);
    await this.#put("access", Buffer.from("kvferry"), false);
  }

  async conditionalCreate(): Promise<boolean> {
    try {
      await this.#put("taken", Buffer.from("first"), false);
      return (await this.#put("taken", Buffer.from("other"), true)) === "taken";
    } catch (thrown) {
      if (thrown instanceof KvferryError && thrown.code === "UNSUPPORTED") return false;
      throw thrown;
    }
  }

  async verifiesChecksum(): Promise<boolean> {
    const name = this.#name("damaged");
    const bytes = randomBytes(64 * 1024);
    try {
      await this.#requests.put(name, [bytes], (this.#checksum(bytes) ^ 1) >>> 0, false, this.#options);
      return false;
    } catch (thrown) {
      if (thrown instanceof KvferryError && thrown.context.httpStatus === 400) return true;
      throw thrown;
    }
  }

  async ranges(): Promise<boolean> {
    const bytes = randomBytes(64 * 1024);
    await this.#put("range", bytes, false);
    const got = await this.#get("range", [1000, 1999]);
    return got.equals(bytes.subarray(1000, 2000));
  }

  async listsAtOnce(): Promise<boolean> {
    for (let i = 0; i < 8; i++) {
      const name = `listed-${i}`;
      await this.#put(name, Buffer.from(name), false);
      const { objects } = await this.#requests.list({ prefix: this.#name(name) }, this.#options);
      if (objects.length !== 1) return false;
    }
    return true;
  }

  async multipart(): Promise<S3Facts["multipart"]> {
    const name = this.#name("parts");
    const parts = [randomBytes(5 * MIB), randomBytes(1000)];
    try {
      const upload = await this.#requests.createUpload(name, this.#options);
      const uploaded = [];
      for (const [i, part] of parts.entries()) {
        uploaded.push(await this.#requests.uploadPart(upload, i + 1, [part], this.#checksum(part), this.#options));
      }
      const whole = Buffer.concat(parts);
      await this.#requests.completeUpload(upload, uploaded, this.#checksum(whole), false, this.#options);
      if (!(await this.#get("parts", [0, whole.length - 1])).equals(whole)) return "no";
      return upload.wholeChecksum ? "with a checksum of the whole" : "yes";
    } catch (thrown) {
      if (thrown instanceof KvferryError && thrown.code === "UNSUPPORTED") return "no";
      throw thrown;
    }
  }

  async headMs(): Promise<number> {
    const times: number[] = [];
    for (let i = 0; i < 16; i++) {
      const startMs = performance.now();
      await this.#requests.head(this.#name("access"), this.#options);
      times.push(performance.now() - startMs);
    }
    return times.sort((a, b) => a - b)[8] as number;
  }

  async speed({ objectBytes, depth, objects }: (typeof CELLS)[number]): Promise<S3Speed> {
    const bytes = randomBytes(objectBytes);
    const checksum = this.#checksum(bytes);
    const name = (i: number): string => `speed-${objectBytes}-${depth}-${i}`;
    const rate = async (step: (i: number) => Promise<unknown>): Promise<number> => {
      const startMs = performance.now();
      let next = 0;
      const work = async (): Promise<void> => {
        while (next < objects) await step(next++);
      };
      await Promise.all(Array.from({ length: depth }, work));
      return (objectBytes * objects * 1000) / (performance.now() - startMs);
    };
    const put = (i: number): Promise<unknown> =>
      this.#requests.put(this.#name(name(i)), [bytes], checksum, false, this.#options);
    const get = (i: number): Promise<unknown> =>
      this.#requests.read(this.#name(name(i)), { head: () => true, chunk: () => true }, this.#options);
    return { objectBytes, depth, putBytesPerSecond: await rate(put), getBytesPerSecond: await rate(get) };
  }

  async removeAll(): Promise<void> {
    await this.#requests.deleteMany([...this.#names], { priority: "store" });
  }

  #name(name: string): string {
    const full = `${this.#root}${name}`;
    this.#names.add(full);
    return full;
  }

  #put(name: string, bytes: Buffer, condition: boolean): Promise<"created" | "taken"> {
    return this.#requests.put(this.#name(name), [bytes], this.#checksum(bytes), condition, this.#options, "doctor");
  }

  async #get(name: string, range: [from: number, to: number]): Promise<Buffer> {
    const bytes = await readObject(this.#requests, this.#name(name), range, this.#options);
    return Buffer.from(bytes ?? []);
  }
}
