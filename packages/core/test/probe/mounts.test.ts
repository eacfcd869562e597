import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fileSystemOf, mayHang, mountOf, mountOption, parseMounts } from "../../src/index.js";

const MOUNTS = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
28 22 0:25 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,inode64
41 22 0:48 / /mnt/kv rw,noatime shared:9 master:2 - nfs4 storage:/export/kv rw,vers=4.2,rsize=1048576,hard,proto=tcp,nconnect=4,timeo=600
42 41 0:49 / /mnt/kv/with\\040space rw - fuse.sshfs user@host:/ rw,user_id=0
43 22 0:50 / /mnt/kvother rw - xfs /dev/vdb rw
44 41 0:51 /sub /mnt/kv rw - lustre 10.0.0.1@tcp:/scratch rw,flock
not a line
`;

describe("the mount table", () => {
  const mounts = parseMounts(MOUNTS);

  it("is read with the names that hold spaces, and without lines that are none", () => {
    expect(mounts.map(({ point }) => point)).toEqual([
      "/",
      "/dev/shm",
      "/mnt/kv",
      "/mnt/kv/with space",
      "/mnt/kvother",
      "/mnt/kv",
    ]);
    expect(mounts[2]).toMatchObject({ type: "nfs4", source: "storage:/export/kv", device: "0:48" });
  });

  it("tells the mount that a path lies in: the deepest, and of equal ones the last", () => {
    const typeOf = (path: string) => mountOf(path, mounts)?.type;
    expect(typeOf("/home/x")).toBe("ext4");
    expect(typeOf("/mnt/kv/blocks")).toBe("lustre");
    expect(typeOf("/mnt/kv/with space/x")).toBe("fuse.sshfs");
    expect(typeOf("/mnt/kvother")).toBe("xfs");
    expect(typeOf("/mnt/kvother2")).toBe("ext4");
    expect(mountOf("/x", [])).toBeUndefined();
  });

  it("tells an option's value, of the mount or of the file system", () => {
    const nfs = mounts[2];
    if (nfs === undefined) throw new Error("no such mount");
    expect(mountOption(nfs, "vers")).toBe("4.2");
    expect(mountOption(nfs, "noatime")).toBe("");
    expect(mountOption(nfs, "hard")).toBe("");
    expect(mountOption(nfs, "ver")).toBeUndefined();
  });

  it("takes any text", () => {
    fc.assert(fc.property(fc.string(), (text) => Array.isArray(parseMounts(text))));
  });
});

describe("names of file systems", () => {
  it("come from statfs, also as a signed number", () => {
    expect(fileSystemOf(0xef53)).toMatchObject({ name: "ext4", kind: "local" });
    expect(fileSystemOf(0x9123683e | 0).name).toBe("btrfs");
    expect(fileSystemOf(0x12345)).toMatchObject({ name: "0x12345", kind: "unknown" });
  });

  it("tell whether a call may hang", () => {
    expect(["network", "parallel", "user-space"].every((kind) => mayHang(kind as "network"))).toBe(true);
    expect(mayHang("local") || mayHang("memory") || mayHang("overlay")).toBe(false);
  });
});
