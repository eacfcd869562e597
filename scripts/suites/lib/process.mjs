import { spawn } from "node:child_process";

const children = new Set();

/** Commands lead process groups of their own, so that what they started dies with them. */
function signalGroup(child, signal) {
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It has ended already.
  }
}

/** Kills every command that is still running, with all it started. */
export function killChildren() {
  for (const child of children) signalGroup(child, "SIGKILL");
}

/**
 * Runs a command to its end, stdin closed, and keeps the last part of what it printed. A command that cannot be started
 * answers code 127; one that a signal or its time limit ended answers null.
 */
export function runCommand(command, args, { cwd, env, limitSeconds = 3600, outputCharactersMax = 2_000_000 } = {}) {
  return new Promise((done) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, TURBO_TELEMETRY_DISABLED: "1", DO_NOT_TRACK: "1", NO_COLOR: "1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    let output = "";
    const keep = (data) => {
      output = (output + data).slice(-outputCharactersMax);
    };
    const finish = (code) => {
      clearTimeout(timer);
      children.delete(child);
      done({ code, output });
    };
    const timer = setTimeout(() => {
      keep(`\n${command} ran past its limit of ${limitSeconds} s\n`);
      signalGroup(child, "SIGKILL");
    }, limitSeconds * 1000);
    children.add(child);
    child.stdout.setEncoding("utf8").on("data", keep);
    child.stderr.setEncoding("utf8").on("data", keep);
    child.on("error", (error) => {
      keep(`${error.message}\n`);
      finish(127);
    });
    child.on("close", finish);
  });
}

/** The end of a long output, for an error message. */
export function lastLines(text, count = 60) {
  return text.trimEnd().split("\n").slice(-count).join("\n");
}
