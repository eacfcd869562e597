/** The interface of the C++ data plane. `index.ts` implements it over the addon; nothing else imports the addon. */

/** Rows of memory shared with other processes; fits `Region` of @kvferry/core. */
export interface MappedRegion {
  readonly rows: number;
  /** Bytes from one slot to the next. */
  readonly rowBytes: number;
  /** The whole mapping: rows × rowBytes bytes. Empty (length 0) after close. Node 20 has no views beyond 4 GiB: there it is the
   * rows that fit; an engine that gets it as `memory` reaches all rows all the same. */
  readonly bytes: Uint8Array;
  /** rows × rowBytes; 0 after close. */
  readonly mappedBytes: number;
  /** The memfd of a region made by `createRegion`, to be passed on; -1 for mapped ones. */
  readonly fd: number;
  /** True once the file behind the mapping was found shorter than the mapping (the owner truncated it): all its I/O fails with REGION_GONE. */
  readonly gone: boolean;
  /** Takes the memory away from JavaScript; it is unmapped when the last batch that uses it has ended. May be called twice. */
  close(): void;
}

export interface RegionShape {
  readonly rows: number;
  readonly rowBytes: number;
  /** Byte offset of row 0 in the file, a multiple of 4096; default 0. */
  readonly offset?: number;
}

export interface CreateRegionOptions {
  /** "try": backed by huge pages where the machine allows it (reserved ones, else transparent ones), else by common pages, and touched in
   * the background, so that the first copy into a row meets no page fault. Without it, pages come at their first touch. */
  readonly hugePages?: "try";
}

/** Who is at the other end of a Unix socket (SO_PEERCRED). pid 0: not visible from this pid namespace. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** One end of a Unix stream socket that can carry descriptors. Callbacks run on the event loop. */
export interface UnixConnection {
  readonly peer: PeerCredentials;
  /** Bytes accepted by `send` that the kernel has not taken yet. */
  readonly bufferedBytes: number;
  /** Sends bytes, with descriptors attached to the first byte (duplicated by the kernel; the caller keeps its own). Copies what the
   * kernel does not take at once. False once the connection is over. Throws BUSY when `sendBufferBytesMax` would be exceeded. */
  send(bytes: Uint8Array, fds?: readonly number[]): boolean;
  /** No more sending; receiving goes on (SHUT_WR), after what is buffered has been sent. */
  end(): void;
  /** Closes at once. `onClose` is called once, always. */
  close(): void;
}

export interface ConnectionHandlers {
  /** Received bytes (valid after the call) and the descriptors that came with them (close-on-exec). Whoever gets descriptors closes
   * them (`closeFd`) or hands them to `mapRegionFd`. At most 16 descriptors a message; more are closed and end the connection. */
  onData(bytes: Uint8Array, fds: readonly number[]): void;
  /** The peer sends no more (it closed or half-closed). With this handler the connection stays open for sending until `close()`
   * is called, so that its end can be the fence of docs/protocol.md; without it, it is closed at once. */
  onEnd?(): void;
  /** The connection is over: `undefined` for an orderly end, else the error. */
  onClose(error: Error | undefined): void;
}

export interface ConnectOptions {
  /** Bytes that may wait to be sent; default 64 MiB. */
  readonly sendBufferBytesMax?: number;
}

export interface ListenOptions {
  /** Mode of the socket file; default 0o600. */
  readonly mode?: number;
  /** Bytes that one connection may have waiting to be sent; default 64 MiB. */
  readonly sendBufferBytesMax?: number;
  /** Called for each peer; returns its handlers, or undefined to refuse (close) it. */
  onConnection(connection: UnixConnection): ConnectionHandlers | undefined;
  onError(error: Error): void;
}

export interface UnixServer {
  readonly path: string;
  /** Stops listening and removes the socket file if it is still this server's; connections live on. */
  close(): void;
}

export type LayoutName = "kvferry" | "vllm-fs";

export interface FileEngineOptions {
  /** I/O threads; default: 2 × cores, 32 to 64. A quarter of them never stores, so that slow writes hold up no load. */
  readonly threads?: number;
  /** Blocks waiting or moving, at most; a batch beyond it is refused whole with BUSY. Default 65,536. */
  readonly queueDepthMax?: number;
  /** For storage that can hang. Blocks move through memory of the threads, which costs a copy; a call whose signal aborts ends at once, and whatever
   * its I/O comes to later is dropped: no slot is touched after the abort, but a file may still be stored or removed. `close` ends within a
   * second or two, whatever hangs. Default false. */
  readonly abandonable?: boolean;
  /** A thread that is in one block (or one other call) for so long counts as stuck, and another one takes its place. Default 5,000. */
  readonly stuckAfterMs?: number;
  /** Threads replaced at a time, at most; while more are stuck, batches are refused with UNAVAILABLE. Default: as many as `threads`. */
  readonly stuckThreadsMax?: number;
}

export interface FileEngineStats {
  readonly threads: number;
  /** Blocks waiting for a thread. */
  readonly queuedLoads: number;
  readonly queuedStores: number;
  /** Blocks being moved now, for callers that still wait. */
  readonly running: number;
  /** Threads that hang in the file system. 0 in an engine that is not abandonable. */
  readonly stuckThreads: number;
}

export interface FileStoreOptions {
  /** Absolute folder of the namespace's blocks: `<hh>/` (layout kvferry) or `<hhh>/` (vllm-fs) are made below it as needed. */
  readonly blocksFolder: string;
  /** Absolute folder for named temporary files of this writer, on the same file system; made if missing. */
  readonly tmpFolder: string;
  /** Absolute folder to which damaged files are moved; made when first needed. */
  readonly quarantineFolder: string;
  readonly quarantineFilesMax: number;
  readonly layout: LayoutName;
  /** 32 bytes. */
  readonly namespaceDigest: Uint8Array;
  /** For the footer, at most 64 bytes of UTF-8. */
  readonly writer: string;
  readonly keyBytes: number;
  readonly blockBytes: number;
  readonly fileMode: number;
  readonly folderMode: number;
  readonly fsync: boolean;
  /** Take files without a footer as they are. */
  readonly adopt: boolean;
  /** auto: O_DIRECT where a probe in tmpFolder shows that it works and blockBytes allows it. */
  readonly direct: "auto" | "on" | "off";
  /** How a finished block gets its name; auto: link where the probe shows that O_TMPFILE and linkat work, else rename. */
  readonly publish: "auto" | "link" | "rename";
}

export interface BlockIo {
  /** Packed keys, count × keyBytes. */
  readonly keys: Uint8Array;
  /** The region's whole memory; must stay valid until the promise settles. */
  readonly memory: Uint8Array;
  readonly rowBytes: number;
  readonly slots: Uint32Array;
  readonly priority?: "load" | "store";
  /** Blocks that have not begun when it aborts end as FAILED with `abortCode()`; those under way are finished or, in an abandonable
   * engine, end the same way. */
  readonly signal?: AbortSignal | undefined;
}

/** The same bytes as core's BatchResult; numbers of `Outcome` and of ERROR_CODES. */
export interface BlockResult {
  readonly outcomes: Uint8Array;
  readonly codes: Uint8Array;
}

export interface FolderListing {
  readonly names: readonly string[];
  readonly bytes: Float64Array;
  readonly modifiedAtMs: Float64Array;
}

/** What `stampFolders` tells of each folder, `FOLDER_STAMP_NUMBERS` numbers a folder:
 * 0: an errno, or 0 for a folder that was seen; the others are then its stamp, which moves when a name comes or goes: 1: change time, ns;
 * 2: modification time, ns; 3: bytes; 4: links; 5: how many names at the end of the path are not there (the stamp is that of the
 * deepest folder that is). */
export type FolderStamps = BigInt64Array;

export interface FileStoreCounters {
  /** Payload bytes moved. */
  readonly bytesStored: number;
  readonly bytesLoaded: number;
  readonly adopted: number;
  readonly quarantined: number;
}

/** File per block in one folder. All methods return promises that settle in one completion a batch; none blocks the event loop. */
export interface FileStore {
  /** What the probe found. */
  readonly direct: boolean;
  readonly publish: "link" | "rename";
  /** Store: outcomes STORED, PRESENT, FAILED. A file that is there is PRESENT when its size is that of a complete block (or, with
   * `adopt`, of a block without footer) and, in the layout vllm-fs, its footer says that it is this namespace's; another is replaced. */
  store(io: BlockIo): Promise<BlockResult>;
  /** Load and verify by docs/block-format.md; CORRUPT files are moved to the quarantine. */
  load(io: BlockIo): Promise<BlockResult>;
  /** One byte per key: 1 where a file is there that `store` would call PRESENT, 0 where there is none, 2 where the file system could not
   * tell (an I/O error). What the kernel has cached counts: on a network file system a block of another host may be missed. */
  exists(keys: Uint8Array, signal?: AbortSignal): Promise<Uint8Array>;
  /** Names, sizes and modification times of the regular files in a folder (absolute path); empty if there is no such folder. */
  listFolder(folder: string, signal?: AbortSignal): Promise<FolderListing>;
  /** Asks the file system's server for these folders (relative to `blocksFolder`), past what this host's kernel has cached of them: one round
   * trip a folder. If a folder has changed, what the kernel cached of its names is not believed any more. `touch`: gives each folder a new time first. */
  stampFolders(folders: readonly string[], touch: boolean, signal?: AbortSignal): Promise<FolderStamps>;
  /** The keys, packed, that have a name in a folder `<hh>` of the layout kvferry; no file is looked at. Empty if there is no such folder. */
  keysIn(folder: string, signal?: AbortSignal): Promise<Uint8Array>;
  /** Outcomes REMOVED, MISS, FAILED. */
  remove(keys: Uint8Array, signal?: AbortSignal): Promise<BlockResult>;
  counters(): FileStoreCounters;
  /** Releases descriptors. The caller has ended all I/O of it before. */
  close(): void;
}

/** Blocks that move from one memory to another; what both memories are is told as in `BlockIo`. */
export interface BlockCopy {
  /** The whole memory that the blocks come from, and the one they go to; both must stay valid until the promise settles. */
  readonly from: Uint8Array;
  readonly fromRowBytes: number;
  readonly fromSlots: Uint32Array;
  readonly to: Uint8Array;
  readonly toRowBytes: number;
  readonly toSlots: Uint32Array;
  /** At most either rowBytes. Both memories may be one, if no target slot is another block's source; a block whose slots are one place is only read. */
  readonly blockBytes: number;
  /** One CRC-32C a block, of its `blockBytes` bytes. compute: written when the promise settles, right only where the outcome is STORED.
   * verify: read at the call. */
  readonly checksums: Uint32Array;
  /** compute: outcomes STORED, FAILED. verify: LOADED, CORRUPT, FAILED. What the target slot of any other outcome than STORED or
   * LOADED holds afterwards is undefined. */
  readonly mode: "compute" | "verify";
  /** Default: "store" for compute, "load" for verify. */
  readonly priority?: "load" | "store";
  /** As in `BlockIo`. */
  readonly signal?: AbortSignal | undefined;
}

/** Calls on absolute paths, made by a thread of the engine. Errors have the errno's name in `context.errno`. */
export interface FolderCalls {
  /** All names in a folder. */
  names(folder: string, signal?: AbortSignal): Promise<readonly string[]>;
  /** The first `bytesMax` bytes. */
  read(path: string, bytesMax: number, signal?: AbortSignal): Promise<Uint8Array>;
  /** Makes the file, or replaces what it holds; `mustBeNew`: fails with EEXIST instead. */
  write(path: string, bytes: Uint8Array, mode: number, mustBeNew: boolean, signal?: AbortSignal): Promise<void>;
  rename(from: string, to: string, signal?: AbortSignal): Promise<void>;
  /** A file, or a folder with all that is in it; what is not there is no error. */
  remove(path: string, signal?: AbortSignal): Promise<void>;
  /** `mkdir -p`. */
  makeFolders(path: string, mode: number, signal?: AbortSignal): Promise<void>;
  facts(path: string, signal?: AbortSignal): Promise<{ readonly bytes: number; readonly modifiedAtMs: number }>;
  /** The magic of statfs(2). */
  fileSystem(path: string, signal?: AbortSignal): Promise<number>;
  /** Sets the modification time, whole ms since 1970. */
  touch(path: string, ms: number, signal?: AbortSignal): Promise<void>;
  /** Rejects unless the path can be used: `mode` of access(2). */
  access(path: string, mode: number, signal?: AbortSignal): Promise<void>;
}

export interface FileEngine {
  /** Whether calls end at their abort, as `FileEngineOptions` says. */
  readonly abandonable: boolean;
  readonly folders: FolderCalls;
  /** Copies blocks on the engine's threads, each byte read once for copy and checksum. A block whose memory was taken away ends as
   * FAILED(REGION_GONE). No slot is touched once the promise has settled. */
  copyBlocks(copy: BlockCopy): Promise<BlockResult>;
  /** Probes the folders and makes them. Rejects with an Error whose `code` is one of core's codes and whose `context` has path and errno. */
  openStore(options: FileStoreOptions, signal?: AbortSignal): Promise<FileStore>;
  /** Opens an engine's memory. Its copies are never abandoned, also where the engine is abandonable: those under way are waited for. Rejects with an Error: INVALID_ARGUMENT whose
   * `context.field` names what is wrong, PERMISSION that says what helps, DEVICE_LOST, DEVICE_FAILED, UNSUPPORTED. */
  openDevice(options: OpenDeviceOptions): Promise<Device>;
  stats(): FileEngineStats;
  /** Ends the threads after the blocks under way. Queued blocks end as FAILED(CLOSED), and so does, in an abandonable engine, what is still
   * under way after a second. */
  close(): Promise<void>;
}

/** What CRC-32C runs on here. */
export type ChecksumImplementation = "sse4.2" | "armv8-crc" | "portable";

export interface SegmentDriveOptions {
  /** Absolute path of a folder, in which one file `segments.kvs` is made (it must exist), or of a block device. */
  readonly path: string;
  /** A multiple of 4096, at least 65,536. A drive keeps the size it was made with: another is refused with CONFIG_INVALID. */
  readonly segmentBytes: number;
  /** May be more or fewer than last time: the drive grows, or gives up its last segments and what they hold. The whole drive has at
   * most 16 TiB: `SEGMENT_DRIVE_HEADER_BYTES` + segments × segmentBytes bytes, which is exactly what the file takes. */
  readonly segments: number;
  /** auto: O_DIRECT where a probe shows that it works. */
  readonly direct: "auto" | "on" | "off";
  /** auto: io_uring where the kernel lets us and O_DIRECT works, else threads. */
  readonly ioUring: "auto" | "on" | "off";
  /** Whether the room of a segment whose life has ended is given back to the drive. auto: of a block device (TRIM), but not of a file:
   * writing over what was written is faster than into holes, which have to be allocated again. */
  readonly discard: "auto" | "on" | "off";
  /** Transfers that the drive works on at a time; default 64. */
  readonly queueDepth?: number;
  readonly fileMode: number;
}

/** Whose blocks these are; keys and payloads of one call belong to one namespace. */
export interface SegmentNamespace {
  /** 32 bytes. */
  readonly namespaceDigest: Uint8Array;
  /** 5 to 128. */
  readonly keyBytes: number;
  readonly blockBytes: number;
}

/** One batch written as one record: header pages, then the payloads, each at a multiple of 4096. The caller hands out the room: records of a
 * segment's life must not overlap, and the summary must still fit behind them (`summaryBytes`). */
export interface SegmentAppend extends SegmentNamespace, BlockIo {
  readonly segment: number;
  /** Where in the segment the record begins: a multiple of 4096, at least `SEGMENT_HEADER_BYTES`. */
  readonly offset: number;
  /** That the segment was begun with. */
  readonly epoch: number;
  /** Drive-wide, rising: the order of records in time. A whole number below 2^53. */
  readonly sequence: number;
}

export interface SegmentRead extends SegmentNamespace, BlockIo {
  /** Where each payload begins, in units of 4096 bytes from the start of the drive: `driveOffset4k(segment, offset + payloadOffset(…), segmentBytes)`
   * for what was appended, or what `recover` said. */
  readonly offsets4k: Uint32Array;
  /** What `append` or `recover` gave for each block. */
  readonly checksums: Uint32Array;
}

/** A segment at one time of its life. */
export interface SegmentLife {
  readonly segment: number;
  /** Which life of the segment: whole, at least 1, more than at all earlier lives. Below 2^53. */
  readonly epoch: number;
  /** As for records; tells in which order segments were begun. */
  readonly sequence: number;
}

/** What a namespace has on a drive; entries in the order of their records' sequences, so that of two equal keys the later counts. */
export interface RecoveredNamespace extends SegmentNamespace {
  /** Packed, one key an entry. */
  readonly keys: Uint8Array;
  /** Where each payload begins, in units of 4096 bytes from the start of the drive; its segment is `segmentOf` of it. */
  readonly offsets4k: Uint32Array;
  readonly checksums: Uint32Array;
  /** Of the record that each block came in. */
  readonly sequences: Float64Array;
}

/** What a drive holds; arrays of `segments` have one element for each segment that was begun, by rising index. */
export interface RecoveredDrive {
  readonly segments: {
    readonly index: Uint32Array;
    readonly epoch: Float64Array;
    readonly sequence: Float64Array;
    /** Where the next record may begin, behind everything that was found. */
    readonly usedBytes: Float64Array;
    /** 1: it has a summary and takes no more records. 0: it can be appended to (with its epoch, from usedBytes on) or sealed. */
    readonly sealed: Uint8Array;
    /** Records, blocks and key bytes found, for `summaryBytes`. */
    readonly records: Uint32Array;
    readonly blocks: Uint32Array;
    readonly keyBytes: Float64Array;
  };
  readonly namespaces: readonly RecoveredNamespace[];
  /** Segments whose header (then nothing of them is used) or summary (then their records were walked) does not verify or could not be
   * read, and records that were left out because their header does not verify. */
  readonly damagedSegments: number;
  readonly damagedRecords: number;
}

export interface SegmentDriveCounters {
  /** All bytes that went to the drive, and came from it, headers and padding included. */
  readonly bytesWritten: number;
  readonly bytesRead: number;
  /** Payload bytes of blocks that ended as STORED, and as LOADED. */
  readonly bytesStored: number;
  readonly bytesLoaded: number;
  readonly corruptBlocks: number;
  /** Bytes given back by discard. */
  readonly bytesDiscarded: number;
  /** Bytes of regions that are registered with io_uring now. */
  readonly registeredBytes: number;
}

/** A log of records on one drive, which this process alone has open. Who uses it decides which segment takes the next record and which is
 * given up; the drive moves bytes and verifies them. Offsets and sizes are bytes unless they say 4k. */
export interface SegmentDrive {
  readonly engine: "io_uring" | "threads";
  /** Why it is not io_uring; undefined when it is, or was not asked for. */
  readonly engineReason: string | undefined;
  readonly direct: boolean;
  /** Whether the file's room was allocated at open, so that no append can meet a full file system. */
  readonly preallocated: boolean;
  readonly segmentBytes: number;
  readonly segments: number;
  /** Begins a new life of a segment: from then on nothing of earlier lives is found in it. Resolves before anything may be appended. What
   * an earlier life held must not be read any more. Rejects with NO_SPACE, IO, … and leaves the segment as it was or empty. */
  begin(life: SegmentLife): Promise<void>;
  /** All blocks STORED, or all FAILED with one code: a record is whole or nothing, and after FAILED its room is lost until the segment's next life. */
  append(append: SegmentAppend): Promise<BlockResult & { readonly checksums: Uint32Array }>;
  /** Loads and verifies each block against its checksum, key and namespace: LOADED, CORRUPT, FAILED. */
  read(read: SegmentRead): Promise<BlockResult>;
  /** Writes the summary of all records of this life at the end of the segment, after which it takes no more. Recovery is fast by it. All appends
   * to the segment must have settled. Rejects with INVALID_ARGUMENT when the summary does not fit, or the segment is not open. */
  seal(life: SegmentLife): Promise<void>;
  /** What the drive holds: reads summaries, walks the records of unsealed segments. To be called once, before anything is begun or appended;
   * blocks are verified when they are read, not here. */
  recover(): Promise<RecoveredDrive>;
  /** Ends a segment's life and, by the option of that name, gives its room back to the drive (TRIM, hole punching) where it takes it; its bytes
   * stay counted in the file's size. */
  discard(segment: number): Promise<void>;
  counters(): SegmentDriveCounters;
  stats(): FileEngineStats;
  /** Waits for what is under way, ends what waits with CLOSED, and lets other processes have the drive. May be called twice. */
  close(): Promise<void>;
}

/** What calls do in a folder, each tried; the same as core's. Of those named in `errno` 0 says that it works; else it is what the call gave. */
export interface FileFeatures {
  readonly errno: {
    /** A second O_EXCL creation of a name is refused. */
    readonly exclusiveCreate: number;
    /** A rename onto a name that is taken replaces it. */
    readonly renameOver: number;
    readonly hardLink: number;
    /** O_TMPFILE and linkat. */
    readonly unnamedFile: number;
    readonly userXattr: number;
    readonly fallocate: number;
    /** FALLOC_FL_PUNCH_HOLE. */
    readonly punchHole: number;
    /** O_DIRECT, written and read back. */
    readonly direct: number;
  };
  /** To which offsets, lengths and memory of O_DIRECT must be aligned; 0 where it does not work. */
  readonly directAlignmentBytes: number;
  /** Bytes that one O_DIRECT read, and one common read, gave of `transferAskedBytes`. */
  readonly directTransferBytes: number;
  readonly transferBytes: number;
  readonly transferAskedBytes: number;
  /** Least step seen between the times of files changed one after the other, ns. */
  readonly timestampStepNs: number;
}

/** Memory of another process that blocks are copied from and to. Memory number i of a `DeviceLayout` is `memories[i]`. */
export type DeviceMemory =
  | {
      /** Cross-memory attach (process_vm_readv): that process must let this one (PR_SET_PTRACER, or no Yama). */
      readonly kind: "process";
      readonly pid: number;
      readonly memories: readonly { readonly address: number; readonly bytes: number }[];
    }
  | {
      /** Shared memory that is mapped here; held until the device is closed. */
      readonly kind: "region";
      readonly memories: readonly MappedRegion[];
    }
  | {
      /** CUDA IPC. `handle`: the 64 bytes of cuIpcGetMemHandle; `offset`: where the memory begins in that allocation, as PyTorch shares it. */
      readonly kind: "cuda";
      /** 16 bytes of the GPU's UUID. */
      readonly uuid: Uint8Array;
      readonly memories: readonly { readonly handle: Uint8Array; readonly offset: number; readonly bytes: number }[];
    };

/** Where an engine's KV pages are. Page p of a tensor is at `offset + p × strideBytes` of its memory. */
export interface DeviceTensor {
  readonly memory: number;
  readonly offset: number;
  readonly strideBytes: number;
  /** Bytes that a page takes in a chunk; at most strideBytes. */
  readonly pageBytes: number;
  readonly pages: number;
}

/**
 * How a chunk lies in host memory: tensor after tensor, of each the `blocksPerChunk` pages of the chunk's blocks. That is a worker's part of a row of vLLM's
 * offload region. A group uses some of the tensors, and of each page the first `bytes`.
 */
export interface DeviceLayout {
  readonly tensors: readonly DeviceTensor[];
  readonly groups: readonly (readonly { readonly tensor: number; readonly bytes: number }[])[];
  readonly blocksPerChunk: number;
}

export interface DeviceCopies {
  /** The whole host memory; must stay valid until the promise settles. */
  readonly host: Uint8Array;
  /** Where each chunk's part begins in it, bytes. */
  readonly hostOffsets: Float64Array;
  /** Each chunk's group: an index of the layout's. */
  readonly groups: Uint32Array;
  /** Count × blocksPerChunk: page numbers in the group's tensors, or NO_BLOCK. */
  readonly blocks: Uint32Array;
  readonly signal?: AbortSignal | undefined;
}

/** An engine's memory, opened. No byte moves once a call's promise has settled; after `close` has, none at all. */
export interface Device {
  /** Bytes of a chunk's part. */
  readonly partBytes: number;
  /** Into host memory; pages that are not there, and what groups do not use, become zeros. Outcomes STORED, FAILED. */
  gather(copies: DeviceCopies): Promise<BlockResult>;
  /** From host memory. Outcomes LOADED, FAILED. Comes before gathers that wait. */
  scatter(copies: DeviceCopies): Promise<BlockResult>;
  /** Ends after the chunks under way. May be called twice. */
  close(): Promise<void>;
}

export interface OpenDeviceOptions {
  readonly memory: DeviceMemory;
  readonly layout: DeviceLayout;
  /** Host memory that copies will use often: a GPU's driver page-locks it. */
  readonly hostRegions?: readonly MappedRegion[];
}
