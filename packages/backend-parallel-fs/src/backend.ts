import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { type FolderNames, foldersOf, PosixBackend } from "@kvferry/backend-posix";
import { type AuthorContext, type Finding, storedBlockBytes, toKvferryError, type Usage } from "@kvferry/core";
import { checkLustreConfig, invalid, type LustreConfig, lustreFieldsOf, type ParallelFsConfig } from "./config.js";
import { type FoundFileSystem, type ParallelFileSystem, requireParallelFs } from "./detect.js";
import { examineGpfs } from "./examine.js";
import { prepareLustre } from "./lustre/prepare.js";
import { parallelFsManifest } from "./manifest.js";
import { RecentUsage } from "./recent-usage.js";

const FOLDER_MODE = 0o700;

/** The POSIX backend on Lustre or Storage Scale (GPFS): the same files, in folders with a layout; docs/parallel-fs.md. */
export class ParallelFsBackend extends PosixBackend {
  readonly #names: FolderNames;
  readonly #folderMode: number;
  readonly #lustre: LustreConfig;
  #fileSystem: ParallelFileSystem | undefined;
  #findings: readonly Finding[] = [];
  readonly #usage: RecentUsage = new RecentUsage(() => this.context.clock.monotonicMs());

  /** @throws KvferryError CONFIG_INVALID with `context.field`. */
  constructor(config: ParallelFsConfig) {
    const { striping, stripeCount, stripeBytes, pool, dataOnMdt, ...posix } = config;
    super(posix, { manifest: parallelFsManifest });
    this.#names = posix;
    this.#folderMode = posix.folderMode ?? FOLDER_MODE;
    this.#lustre = {
      ...(striping !== undefined && { striping }),
      ...(stripeCount !== undefined && { stripeCount }),
      ...(stripeBytes !== undefined && { stripeBytes }),
      ...(pool !== undefined && { pool }),
      ...(dataOnMdt !== undefined && { dataOnMdt }),
    };
    checkLustreConfig(this.#lustre);
  }

  /** Which of the two it is; undefined before open. */
  get fileSystem(): ParallelFileSystem | undefined {
    return this.#fileSystem;
  }

  /** What open found out about the folder, for the person who runs the storage. */
  get findings(): readonly Finding[] {
    return this.#findings;
  }

  protected override async _open(context: AuthorContext): Promise<void> {
    const { root } = this.#names;
    const found = await requireParallelFs(root);
    if (found.kind === "gpfs") this.#refuseLustreSettings();
    this.#fileSystem = found.kind;
    this.#findings = await this.#prepare(found, context);
    for (const finding of this.#findings)
      if (finding.severity !== "fine") context.logger.warn({ root, finding }, "the file system could be better set up");
    await super._open(context);
  }

  /** As the posix backend counts, but many blocks not at every call. */
  protected override _usage(): Promise<Usage> {
    return this.#usage.get(() => super._usage());
  }

  /** Everything below the namespace's folder is made after it has its layout. */
  async #prepare(found: FoundFileSystem, { namespace, blockBytes, logger }: AuthorContext): Promise<Finding[]> {
    const { blocks, namespace: own, writers } = foldersOf(this.#names, namespace);
    const path = blocks.startsWith(own) ? own : blocks; // the outer one of the two
    const older = [own, blocks, writers].filter((each) => each !== path && existsSync(each));
    await makeFolder(path, this.#folderMode);
    const fileBytes = storedBlockBytes(blockBytes);
    if (found.kind === "lustre") {
      return prepareLustre({ path, older, fileBytes, config: this.#lustre, logger });
    }
    return examineGpfs(path, found.blockBytes, fileBytes);
  }

  #refuseLustreSettings(): void {
    const [field] = lustreFieldsOf(this.#lustre);
    if (field === undefined) return;
    throw invalid(
      field,
      `is a setting of Lustre, but ${this.#names.root} is on Storage Scale, where the fileset decides`,
    );
  }
}

async function makeFolder(path: string, mode: number): Promise<void> {
  await mkdir(path, { recursive: true, mode }).catch((thrown) => {
    throw toKvferryError(thrown, "open", { path });
  });
}
