import { readdirSync, readFileSync } from "node:fs";

/** The processes at least so many steps below one, in no order: what sshd starts for a connection leaves its process group, and is found only this way.
 * Linux alone. */
export function descendants(pid, stepsMin = 1) {
  const parents = new Map();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(text.slice(text.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // it has just ended
    }
  }
  const isBelow = (each) => {
    let steps = 1;
    for (let at = parents.get(each); at !== undefined && at > 1; at = parents.get(at), steps++) {
      if (at === pid) return steps >= stepsMin;
    }
    return false;
  };
  return [...parents.keys()].filter(isBelow);
}

/** A signal to a process that may have ended. */
export function send(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch {
    // it has ended already
  }
}
