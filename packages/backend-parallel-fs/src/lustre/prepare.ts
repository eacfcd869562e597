import { type Finding, type Logger, mountOf, readMounts, silentLogger } from "@kvferry/core";
import { invalid, type LustreConfig } from "../config.js";
import { judgeLustre } from "./judge.js";
import { type FoundLayout, isSameLayout, type Layout, layoutFor, layoutText } from "./layout.js";
import { type Answer, getLayout, getTargets, type LfsOptions, setLayout } from "./lfs.js";

export interface LustreFolder extends LfsOptions {
  /** Made already, and empty if it is new: what is made in it from now on gets its layout. */
  readonly path: string;
  /** Folders in it that are there from before, and files are made in. */
  readonly older: readonly string[];
  readonly fileBytes: number;
  readonly config: LustreConfig;
  readonly logger: Logger;
}

/** Gives the folder its layout where it should have one of ours, and tells what is there to know.
 * Goes on without a layout where that cannot be done: a cache with another layout works.
 * @throws KvferryError CONFIG_INVALID for a pool that is not there. */
export async function prepareLustre(folder: LustreFolder): Promise<Finding[]> {
  const { path, config, fileBytes, logger, timeoutMs } = folder;
  const options: LfsOptions = timeoutMs === undefined ? {} : { timeoutMs };
  const before = await getLayout(path, options);
  const wanted = { ...layoutFor(fileBytes, config), pool: config.pool ?? poolOf(before) };
  if (before.kind === "absent")
    logger.warn({ folder: path }, "there is no `lfs` on the PATH: files get the layout that the folder has");
  const after = before.kind === "ok" ? await applied(folder, before.value, wanted, options) : before;
  const findings = await judged(path, { before, after, wanted, config, logger }, options);
  return [...findings, ...unusedMdt(wanted, config)];
}

/** What there is to know of a folder that blocks may be kept in, which is left as it is. */
export async function examineLustre(path: string, fileBytes: number): Promise<Finding[]> {
  const before = await getLayout(path, {});
  const wanted = { ...layoutFor(fileBytes, {}), pool: poolOf(before) };
  return judged(path, { before, after: before, wanted, config: {}, logger: silentLogger }, {});
}

interface Seen extends Pick<LustreFolder, "config" | "logger"> {
  readonly before: Answer<FoundLayout>;
  readonly after: Answer<FoundLayout>;
  readonly wanted: Layout;
}

async function judged(
  path: string,
  { before, after, wanted, config, logger }: Seen,
  options: LfsOptions,
): Promise<Finding[]> {
  const targets = before.kind === "hung" ? before : await getTargets(path, config.pool, options);
  const mount = mountOf(path, await readMounts());
  const trouble = troubleOf(after) ?? troubleOf(targets);
  if (trouble !== undefined && before.kind !== "absent")
    logger.warn({ folder: path, trouble }, "lfs could not do what it was asked");
  return judgeLustre({
    ...{ folder: path, mount, lfsTrouble: trouble, wanted, striping: config.striping ?? "auto" },
    layout: resultOf(after) ?? resultOf(before),
    ...{ targets: resultOf(targets), pool: config.pool },
  });
}

async function applied(
  { path, older, config, logger }: LustreFolder,
  found: FoundLayout,
  wanted: Layout,
  options: LfsOptions,
): Promise<Answer<FoundLayout>> {
  const { striping = "auto" } = config;
  const same = found !== "none" && found !== "composite" && isSameLayout(found, wanted);
  if (same || striping === "keep" || (striping === "auto" && found !== "none")) return { kind: "ok", value: found };
  for (const each of [path, ...older]) {
    const answer = await setLayout(each, wanted, options);
    if (answer.kind === "failed" && config.pool !== undefined && /pool/i.test(answer.message))
      throw invalid("pool", `is ${config.pool}, which lfs does not take: ${answer.message}`);
    if (answer.kind !== "ok") return answer;
  }
  logger.info({ folder: path, layout: layoutText(wanted), before: layoutText(found) }, "set the layout of new files");
  return { kind: "ok", value: wanted };
}

function unusedMdt({ mdtBytes }: Layout, { dataOnMdt }: LustreConfig): Finding[] {
  if (dataOnMdt !== true || mdtBytes > 0) return [];
  return [
    {
      ...{ severity: "advice", subject: "dataOnMdt", found: "blocks of more than 1 MiB" },
      means: "they are too large for the MDT, and lie on OSTs alone",
      change: "leave out `dataOnMdt`",
    },
  ];
}

/** A folder keeps the pool that it has from the one above. */
function poolOf(answer: Answer<FoundLayout>): string | undefined {
  return answer.kind === "ok" && typeof answer.value !== "string" ? answer.value.pool : undefined;
}

function resultOf<T>(answer: Answer<T>): T | undefined {
  return answer.kind === "ok" ? answer.value : undefined;
}

function troubleOf(answer: Answer<unknown>): string | undefined {
  switch (answer.kind) {
    case "ok":
      return undefined;
    case "absent":
      return "not on the PATH";
    case "hung":
      return "does not answer";
    case "failed":
      return answer.message;
  }
}
