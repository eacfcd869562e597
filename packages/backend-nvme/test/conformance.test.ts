import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keyHex } from "@kvferry/core";
import { type BackendFactory, conformance, type DamageHooks } from "@kvferry/testkit";
import { describe, it } from "vitest";
import { NvmeBackend, type NvmeDriveConfig } from "../src/index.js";
import { Disk, flipByte, patch } from "./disk.js";
import { HEADER_BYTES, MIB } from "./drives.js";

const test = { describe, it };
const large = { capacityBytes: HEADER_BYTES + 64 * MIB, segmentBytes: 4 * MIB };
const tiny = { capacityBytes: HEADER_BYTES + 8 * MIB, segmentBytes: MIB };

function factory(config: Omit<NvmeDriveConfig, "path">): BackendFactory {
  return {
    async create() {
      const folder = await mkdtemp(join(tmpdir(), "kvferry-nvme-"));
      const make = () => new NvmeBackend({ path: folder, ...config });
      const backend = make();
      return {
        backend,
        reopen: async () => make(),
        damage: damageHooks(join(folder, "segments.kvs"), backend),
        cleanup: () => rm(folder, { recursive: true, force: true }),
      };
    },
  };
}

function damageHooks(file: string, backend: NvmeBackend): DamageHooks {
  const payloadOf = async (key: Uint8Array): Promise<number> => {
    return (await Disk.read(file)).find(backend.context.namespace.digestHex, keyHex(key)).payload;
  };
  return {
    flip: async (key, byteOffset) => flipByte(file, (await payloadOf(key)) + byteOffset),
    // what lies behind a write that was cut off is what lay there before: anything else than what was to be written
    truncate: async (key, bytes) => {
      const { blockBytes } = backend.context;
      const invert = (rest: Buffer): void => {
        for (let i = 0; i < rest.length; i++) rest[i] = ~(rest[i] as number);
      };
      await patch(file, (await payloadOf(key)) + bytes, invert, blockBytes - bytes);
    },
    leaveTempFile: () => leaveTornRecord(file),
    storedBytes: (blockBytes) => blockBytes, // the rest is in the record's header, which loads do not need
    impossible: {
      noSpace: "its room is allocated when it is made, and it makes room by letting blocks go",
      denyPermission: "it has its file open, and permissions are looked at when a file is opened",
    },
  };
}

/** Behind the last record: the header of one whose writer has died while it wrote it. */
async function leaveTornRecord(file: string): Promise<void> {
  const disk = await Disk.read(file);
  const last = disk.records().at(-1);
  if (last === undefined) throw new Error("there is no record");
  const place = last.at + last.bytes;
  const header = Buffer.from(disk.bytes.subarray(last.at, last.at + 4096));
  header.writeUInt32LE((place - disk.startOf(last.segment)) / 4096, 52);
  await patch(file, place, (bytes) => header.copy(bytes), 4096);
}

conformance({ name: "nvme, as fast as it can here", test, factory: factory(large) });
conformance({
  name: "nvme, threads and buffered I/O",
  test,
  factory: factory({ ...large, direct: "off", ioUring: "off" }),
});
conformance({ name: "nvme, a tiny drive", test, factory: factory(tiny) });
