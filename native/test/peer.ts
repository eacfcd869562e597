/** Another process with memory of its own, which tests can look into by another way than the one under test. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type MappedRegion, mapRegionPath } from "../src/index.js";
import { addonPath } from "./helpers.js";

export interface Peer {
  readonly pid: number;
  /** Where its memory is, in that process. */
  readonly address: number;
  /** The same pages, mapped here. */
  readonly memory: MappedRegion;
  /** kill -9, and waits until it has ended. */
  kill(): Promise<void>;
}

/** Finds its region in its own address space, as nothing else tells. */
const PEER = `
  const region = require(process.argv[1]).createRegion({ rows: 1, rowBytes: Number(process.argv[2]) }, false);
  const maps = require("node:fs").readFileSync("/proc/self/maps", "latin1").split("\\n");
  const address = maps.find((line) => line.includes("memfd:kvferry-region")).split("-")[0];
  console.log(JSON.stringify({ address: Number.parseInt(address, 16), fd: region.fd }));
  setInterval(() => region.bytes, 60_000);`;

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const end = once(child, "exit");
  child.kill("SIGKILL");
  await end;
}

export async function startPeer(bytes: number): Promise<Peer> {
  const child = spawn(process.execPath, ["-e", PEER, addonPath, String(bytes)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = (await once(child.stdout, "data")) as [Buffer];
  const { address, fd } = JSON.parse(line.toString()) as { address: number; fd: number };
  const memory = mapRegionPath(`/proc/${child.pid}/fd/${fd}`, { rows: 1, rowBytes: bytes });
  return { pid: child.pid as number, address, memory, kill: () => killed(child) };
}

/** A process that is quick to start, and its stack: memory of about 130 KiB that it does not miss. Below it there is memory that is not mapped, down to `lowest`, where its own
 * code begins. */
export interface Sleeper extends Omit<Peer, "memory"> {
  readonly bytes: number;
  readonly lowest: number;
}

export async function startSleeper(): Promise<Sleeper> {
  const child = spawn("sleep", ["600"], { stdio: "ignore" });
  await once(child, "spawn");
  const maps = readFileSync(`/proc/${child.pid}/maps`, "latin1");
  const [address, end] = ends(maps.split("\n").find((line) => line.endsWith("[stack]")));
  const [lowest] = ends(maps);
  return { pid: child.pid as number, address, bytes: end - address, lowest, kill: () => killed(child) };
}

/** Of the mapping that a line of /proc/PID/maps is about. */
function ends(line: string | undefined): [number, number] {
  const [start = "", end = ""] = line?.split(" ")[0]?.split("-") ?? [];
  return [Number.parseInt(start, 16), Number.parseInt(end, 16)];
}
