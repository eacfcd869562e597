import { spawn } from "node:child_process";

const children = new Set();

/** Kills everything that was started here and still runs, with all that it started. */
function killChildren() {
  for (const child of children) killGroup(child);
}

/** SIGKILL to a child and what it started. */
export function killGroup(child, signal = "SIGKILL") {
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It has ended already.
  }
}

/** Cleans up on every way out: a normal end, an error, Ctrl-C, kill. `also` runs last. */
export function cleanUpAtExit(also) {
  process.on("exit", () => {
    killChildren();
    also();
  });
  for (const [signal, code] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ]) {
    process.on(signal, () => process.exit(code));
  }
}

/** Starts a command in a process group of its own. `output()` is the end of what it printed on stderr. */
export function start(command, args, { cwd, env, stdin = "ignore", stdout = "pipe" } = {}) {
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: [stdin, stdout, "pipe"],
    detached: true,
  });
  children.add(child);
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (data) => {
    errors = (errors + data).slice(-20_000);
  });
  const ended = new Promise((done) => {
    child.on("error", (error) => {
      errors += error.message;
      children.delete(child);
      done(127);
    });
    child.on("close", (code, signal) => {
      children.delete(child);
      done(code ?? signal);
    });
  });
  return { child, ended, errors: () => errors };
}

/** Runs a command to its end. @returns {Promise<string>} what it printed. @throws {Error} when it fails. */
export async function runToEnd(command, args, options) {
  const { child, ended, errors } = start(command, args, options);
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (data) => {
    output = (output + data).slice(-20_000);
  });
  const code = await ended;
  if (code === 0) return output;
  throw new Error(`${[command, ...args].join(" ")} ended with ${code}\n${lastLines(errors() || output, 20)}`);
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
      killGroup(child);
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

/** The lines that a child prints on stdout as JSON, one at a time. Other lines are left out. */
export function jsonLines({ child, ended, errors }) {
  const waiting = [];
  const lines = [];
  let rest = "";
  let over = false;
  child.stdout.setEncoding("utf8").on("data", (data) => {
    const parts = (rest + data).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) {
      if (!part.startsWith("{")) continue;
      const next = waiting.shift();
      if (next) next.resolve(JSON.parse(part));
      else lines.push(JSON.parse(part));
    }
  });
  const end = (code) => {
    over = true;
    for (const { reject } of waiting.splice(0)) reject(failure(code));
  };
  const failure = (code) => new Error(`${child.spawnfile} ended with ${code}\n${lastLines(errors(), 25)}`);
  ended.then(end);
  return {
    next() {
      if (lines.length > 0) return Promise.resolve(lines.shift());
      if (over) return ended.then((code) => Promise.reject(failure(code)));
      return new Promise((resolve, reject) => waiting.push({ resolve, reject }));
    },
  };
}
