import type { FileSystemName } from "./file-systems.js";
import type { Mount } from "./mounts.js";

/** What calls do in a folder, each tried. Of those named in `errno` 0 says that it works; else it is what the call gave. */
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

/** Speed of blocks as an engine stores and loads them. */
export interface BlockSpeed {
  readonly blockBytes: number;
  /** Blocks under way at a time. */
  readonly depth: number;
  readonly storeBytesPerSecond: number;
  readonly loadBytesPerSecond: number;
  /** Of a single block at a time in flight, half and 99 of 100 were no slower; undefined for depths above 1. */
  readonly loadMs?: { readonly half: number; readonly most: number } | undefined;
}

/** Ms until a second process saw what the first one did, and whether it ever did; undefined: not within the time given. */
export interface Visibility {
  /** Who the second one was: "a process of this host", or the command that was given. */
  readonly observer: string;
  readonly createMs: number | undefined;
  /** A file replaced by rename. */
  readonly rewriteMs: number | undefined;
  readonly unlinkMs: number | undefined;
  /** Why it could not be asked; undefined where it could. */
  readonly failure?: string | undefined;
}

/** What a folder is, and what it does. */
export interface FolderFacts {
  readonly path: string;
  readonly fileSystem: FileSystemName;
  readonly mount: Mount | undefined;
  readonly space: {
    readonly bytes: number;
    /** For who is not root. */
    readonly bytesFree: number;
    /** 0: the file system does not count files. */
    readonly files: number;
    readonly filesFree: number;
    readonly blockBytes: number;
  };
  readonly features: FileFeatures;
  /** µs a file: made in one folder, made in folders of their own (and those made), and looked up. */
  readonly files: { readonly createUs: number; readonly spreadUs: number; readonly lookupUs: number };
  readonly visibility: Visibility;
  /** undefined: not asked for. */
  readonly measured:
    | {
        /** Whether loads went past the page cache; else their speed may be that of memory. */
        readonly uncached: boolean;
        readonly speeds: readonly BlockSpeed[];
      }
    | undefined;
}
