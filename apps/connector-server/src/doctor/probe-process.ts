import { resolve } from "node:path";
import type { Finding, FolderFacts } from "@kvferry/core";
import { examineMount } from "./examine-mount.js";
import { measureFolder } from "./measure-folder.js";
import { answerProbe, type ProbeOptions, runProbe } from "./run-probe.js";

export interface FolderProbeOptions extends ProbeOptions {
  readonly folder: string;
  readonly observer?: string | undefined;
  /** Leaves the speeds out. */
  readonly quick?: boolean | undefined;
}

export interface ProbedFolder {
  readonly facts: FolderFacts;
  /** What the backend that is made for its file system says. */
  readonly own: readonly Finding[];
}

/** Probes a folder in a process of its own. @throws KvferryError as `runProbe` does. */
export async function probeFolder(options: FolderProbeOptions): Promise<ProbedFolder> {
  const folder = resolve(options.folder);
  const observer = options.observer === undefined ? [] : ["--observer", options.observer];
  const quick = options.quick === true ? ["--quick"] : [];
  return (await runProbe(folder, ["--probe", folder, ...quick, ...observer], options)) as unknown as ProbedFolder;
}

/** What that process does. */
export function probeHere(folder: string, quick: boolean, observer: string | undefined): Promise<void> {
  return answerProbe(async (onStep): Promise<ProbedFolder> => {
    const facts = await measureFolder({ folder, observer, quick, onStep });
    return { facts, own: await examineMount(facts) };
  });
}
