import { describe, expect, it } from "vitest";
import { type CapacityObjects, ObjectFiles } from "../../src/shared-capacity/object-files.js";

const bytesOf = (text: string): Uint8Array => Buffer.from(text);
const textOf = (bytes: Uint8Array | undefined): string | undefined => bytes && Buffer.from(bytes).toString();

/** A bucket in memory, whose next requests can be held back. */
class Bucket implements CapacityObjects {
  readonly objects: Map<string, Uint8Array> = new Map();
  reads = 0;
  /** Awaited by each listing after it has looked. */
  beforeAnswer: Promise<void> = Promise.resolve();

  async list(): Promise<{ name: string; bytes: number }[]> {
    const found = [...this.objects].map(([name, { length }]) => ({ name, bytes: length }));
    await this.beforeAnswer;
    return found.sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async get(name: string, offset: number, bytesMax: number): Promise<Uint8Array | undefined> {
    this.reads++;
    return this.objects.get(name)?.subarray(offset, offset + bytesMax);
  }

  async put(name: string, bytes: Uint8Array): Promise<void> {
    this.objects.set(name, bytes);
  }

  async create(name: string, bytes: Uint8Array): Promise<boolean> {
    if (this.objects.has(name)) return false;
    this.objects.set(name, bytes);
    return true;
  }

  async remove(name: string): Promise<void> {
    this.objects.delete(name);
  }
}

async function read(files: ObjectFiles, name: string): Promise<string | undefined> {
  return textOf(await files.read(name, 0, 1000));
}

describe("files in a bucket", () => {
  it("are what was written last, though an earlier write takes effect later", async () => {
    const bucket = new Bucket();
    const [writer, reader] = [new ObjectFiles(bucket), new ObjectFiles(bucket)];
    await writer.replace("a", bytesOf("one"));
    const [[late, bytes]] = [...bucket.objects] as [[string, Uint8Array]];
    await writer.replace("a", bytesOf("two"));
    await writer.replace("a", bytesOf("three"));
    bucket.objects.set(late, bytes);
    expect(await reader.list()).toEqual(["a"]);
    expect(await read(reader, "a")).toBe("three");
  });

  it("never use a version again that has failed: it may appear later with other bytes", async () => {
    const bucket = new Bucket();
    const files = new ObjectFiles(bucket);
    const { put } = bucket;
    let failed = "";
    bucket.put = async (name) => {
      failed = name;
      throw new Error("cut off");
    };
    await expect(files.replace("a", bytesOf("lost"))).rejects.toThrow("cut off");
    bucket.put = put;
    await files.replace("a", bytesOf("kept"));
    bucket.objects.set(failed, bytesOf("lost"));
    await files.list();
    expect(await read(files, "a")).toBe("kept");
  });

  it("do not pile up: versions before the last but one go, but what was created stays and keeps its name taken", async () => {
    const bucket = new Bucket();
    const files = new ObjectFiles(bucket);
    expect(await files.create("epoch-1", bytesOf("0"))).toBe(true);
    for (let i = 1; i <= 20; i++) {
      await files.replace("epoch-1", bytesOf(String(i)));
      await files.list();
    }
    await files.list();
    expect([...bucket.objects.values()].map(textOf)).toEqual(["0", "19", "20"]);
    expect(await new ObjectFiles(bucket).create("epoch-1", bytesOf("x"))).toBe(false);
    await files.remove("epoch-1");
    expect(bucket.objects.size).toBe(0);
  });

  it("are read as the listing that began last has shown them, whichever ends last", async () => {
    const bucket = new Bucket();
    const [writer, reader] = [new ObjectFiles(bucket), new ObjectFiles(bucket)];
    await writer.replace("a", bytesOf("old"));
    let release = (): void => {};
    bucket.beforeAnswer = new Promise((resolve) => {
      release = resolve;
    });
    const slow = reader.list();
    bucket.beforeAnswer = Promise.resolve();
    await writer.replace("a", bytesOf("new"));
    await reader.list();
    release();
    await slow;
    expect(await read(reader, "a")).toBe("new");
  });

  it("are read once a version, and found again where they were replaced meanwhile", async () => {
    const bucket = new Bucket();
    const [writer, reader] = [new ObjectFiles(bucket), new ObjectFiles(bucket)];
    await writer.replace("a", bytesOf("one"));
    for (let i = 0; i < 5; i++) {
      await reader.list();
      expect(await read(reader, "a")).toBe("one");
    }
    expect(bucket.reads).toBe(1);
    await reader.list();
    for (let i = 2; i < 5; i++) {
      await writer.replace("a", bytesOf(String(i)));
      await writer.list();
    }
    await reader.list();
    await writer.replace("a", bytesOf("5"));
    await writer.replace("a", bytesOf("6"));
    await writer.list();
    expect(await read(reader, "a")).toBe("6");
  });

  it("grow as logs do, also over a write that failed", async () => {
    const bucket = new Bucket();
    const [writer, reader] = [new ObjectFiles(bucket), new ObjectFiles(bucket)];
    await writer.write("log-0", 0, bytesOf("aaaa"));
    await writer.write("log-0", 4, bytesOf("bb"));
    await writer.write("log-0", 4, bytesOf("cccc"));
    await reader.list();
    expect(await read(reader, "log-0")).toBe("aaaacccc");
    expect(textOf(await reader.read("log-0", 4, 2))).toBe("cc");
    expect(await reader.read("log-0", 8, 2)).toHaveLength(0);
    expect(await reader.read("log-1", 0, 2)).toBeUndefined();
  });
});
