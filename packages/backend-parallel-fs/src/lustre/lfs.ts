import { runTool, type ToolResult } from "../tool.js";
import { type LustreTarget, parseLustreDf } from "./df.js";
import { type FoundLayout, type Layout, parseLayout, setstripeArguments } from "./layout.js";

/** What came of asking `lfs`. */
export type Answer<T> = Exclude<ToolResult, { kind: "ok" }> | { readonly kind: "ok"; readonly value: T };

export interface LfsOptions {
  readonly timeoutMs?: number;
}

/** The layout that new files of a folder get, if it has one of its own. */
export async function getLayout(folder: string, options: LfsOptions): Promise<Answer<FoundLayout>> {
  return answered(await runTool("lfs", ["getstripe", "-d", "--raw", folder], options), parseLayout);
}

/** Replaces it, for files and folders that are made from now on. */
export async function setLayout(folder: string, layout: Layout, options: LfsOptions): Promise<Answer<Layout>> {
  return answered(await runTool("lfs", ["setstripe", ...setstripeArguments(layout), folder], options), () => layout);
}

/** What the targets hold; those that are away are not waited for. */
export async function getTargets(
  folder: string,
  pool: string | undefined,
  options: LfsOptions,
): Promise<Answer<LustreTarget[]>> {
  const inPool = pool === undefined ? [] : ["-p", pool];
  return answered(await runTool("lfs", ["df", "--lazy", ...inPool, folder], options), parseLustreDf);
}

function answered<T>(result: ToolResult, read: (stdout: string) => T): Answer<T> {
  return result.kind === "ok" ? { kind: "ok", value: read(result.stdout) } : result;
}
