/** What a file system means for blocks: who else sees it, and what its calls can do to the caller. */
export type FileSystemKind =
  /** On a drive of this host. */
  | "local"
  /** In this host's memory: lost at a restart. */
  | "memory"
  /** On other hosts, through a protocol with caches of its own: its calls can hang. */
  | "network"
  /** A cluster's own file system, coherent for all clients: its calls can hang. */
  | "parallel"
  /** A process of this host answers: its calls can hang. */
  | "user-space"
  /** The writable layer of a container: lost with it. */
  | "overlay"
  | "unknown";

export interface FileSystemName {
  /** statfs(2) f_type. */
  readonly magic: number;
  readonly name: string;
  readonly kind: FileSystemKind;
}

const row = (magic: number, name: string, kind: FileSystemKind): FileSystemName => ({ magic, name, kind });

/** From linux/magic.h, and the documents of those that are not in the kernel. */
const FILE_SYSTEMS: readonly FileSystemName[] = [
  row(0xef53, "ext4", "local"), // and ext2, ext3: the mount table tells
  row(0x58465342, "xfs", "local"),
  row(0x9123683e, "btrfs", "local"),
  row(0x2fc12fc1, "zfs", "local"),
  row(0xf2f52010, "f2fs", "local"),
  row(0xca451a4e, "bcachefs", "local"),
  row(0x01021994, "tmpfs", "memory"),
  row(0x858458f6, "ramfs", "memory"),
  row(0x6969, "nfs", "network"),
  row(0xff534d42, "cifs", "network"),
  row(0xfe534d42, "smb2", "network"),
  row(0x01021997, "9p", "network"),
  row(0x00c36400, "ceph", "parallel"),
  row(0x0bd00bd0, "lustre", "parallel"),
  row(0x47504653, "gpfs", "parallel"),
  row(0x19830326, "beegfs", "parallel"),
  row(0x65735546, "fuse", "user-space"),
  row(0x794c7630, "overlay", "overlay"),
];

/** What statfs(2) says of a file system, in words. */
export function fileSystemOf(magic: number): FileSystemName {
  const unsigned = magic >>> 0; // some callers have it as a signed number
  return FILE_SYSTEMS.find((each) => each.magic === unsigned) ?? row(unsigned, `0x${unsigned.toString(16)}`, "unknown");
}

/** Whether a call on it may never return: I/O on it has to be abandonable. */
export function mayHang(kind: FileSystemKind): boolean {
  return kind === "network" || kind === "parallel" || kind === "user-space";
}
