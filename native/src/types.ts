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
}

export interface FileEngineStats {
  readonly threads: number;
  /** Blocks waiting for a thread. */
  readonly queuedLoads: number;
  readonly queuedStores: number;
  /** Blocks being moved now. */
  readonly running: number;
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
  /** Blocks that have not begun when it aborts end as FAILED with `abortCode()`; those under way are finished. */
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
   * `adopt`, of a block without footer) and, in the layout vllm-fs, its footer says that it is this namespace's; another is replaced.
   * With `replace`, an existing file is always replaced. */
  store(io: BlockIo & { readonly replace?: boolean }): Promise<BlockResult>;
  /** Load and verify by docs/block-format.md; CORRUPT files are moved to the quarantine. */
  load(io: BlockIo): Promise<BlockResult>;
  /** One byte per key: 1 where a file is there that `store` would call PRESENT. */
  exists(keys: Uint8Array, signal?: AbortSignal): Promise<Uint8Array>;
  /** Names, sizes and modification times of the regular files in a folder (absolute path); empty if there is no such folder. */
  listFolder(folder: string): Promise<FolderListing>;
  /** Outcomes REMOVED, MISS, FAILED. */
  remove(keys: Uint8Array, signal?: AbortSignal): Promise<BlockResult>;
  counters(): FileStoreCounters;
  /** Releases descriptors. The caller has ended all I/O of it before. */
  close(): void;
}

export interface FileEngine {
  /** Probes the folders and makes them. Rejects with an Error whose `code` is one of core's codes and whose `context` has path and errno. */
  openStore(options: FileStoreOptions): Promise<FileStore>;
  stats(): FileEngineStats;
  /** Ends the threads after the blocks under way. Queued blocks end as FAILED(CLOSED). */
  close(): Promise<void>;
}

/** What CRC-32C runs on here. */
export type ChecksumImplementation = "sse4.2" | "armv8-crc" | "portable";
