// Host memory of processes, as the kernel has it: what of shared memory is really there, each page once.
import { readdirSync, readFileSync } from "node:fs";

const SHARED = /^(\/dev\/shm\/|\/memfd:|\/dev\/zero)/;
const TICKS_PER_SECOND = 100; // USER_HZ, the same on all of Linux

/** The process and all below it. */
export function familyOf(pid) {
  const family = [pid];
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const children = readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim();
    if (children !== "") family.push(...children.split(" ").flatMap((child) => familyOf(Number(child))));
  }
  return family;
}

/** Bytes of shared memory files (regions in /dev/shm, memfds) that are present, over all these processes and with names: a page that several have mapped counts once. */
export function sharedBytes(pids) {
  const byName = {};
  for (const pid of pids) {
    let name;
    for (const line of readFileSync(`/proc/${pid}/smaps`, "utf8").split("\n")) {
      const mapping = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$/.exec(line);
      if (mapping) name = SHARED.test(mapping[1]) ? kindOf(mapping[1]) : undefined;
      const pss = /^Pss:\s+(\d+) kB$/.exec(line);
      if (pss && name !== undefined) byName[name] = (byName[name] ?? 0) + Number(pss[1]) * 1024;
    }
  }
  return byName;
}

/** CPU seconds that a process and its threads have used, its ended children's too. */
export function cpuSeconds(pids) {
  return pids.reduce((sum, pid) => {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return sum + fields.slice(11, 15).reduce((ticks, each) => ticks + Number(each), 0) / TICKS_PER_SECOND;
  }, 0);
}

function kindOf(path) {
  return path.includes("vllm_offload") ? "engine regions" : path.replace(" (deleted)", "").replace(/[-_.]?\d+$/, "");
}
