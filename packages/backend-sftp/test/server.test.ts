import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { expect, it } from "vitest";
import { until } from "../../backend-s3/test/fixtures.js";
import { describeSshd } from "./server.js";

const LIBRARY = new URL("../../../scripts/lib/sshd.mjs", import.meta.url).href;

// What these tests leave behind on the machine of who runs them, if they are killed.

describeSshd("the test's own server", () => {
  it("does not outlive a process that was killed, and leaves no folder", async () => {
    const program = `
      const { startSshd } = await import(${JSON.stringify(LIBRARY)});
      const { port, folder } = await startSshd();
      console.log(JSON.stringify({ port, folder }));
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const [line] = await new Promise<string[]>((done) =>
      child.stdout.setEncoding("utf8").on("data", (...args) => done(args)),
    );
    const { port, folder } = JSON.parse(line as string) as { port: number; folder: string };
    expect(existsSync(folder)).toBe(true);
    expect(await answers(port)).toBe(true);
    child.kill("SIGKILL");
    await until(async () => !existsSync(folder) && !(await answers(port)));
  });
});

function answers(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect(port, "127.0.0.1", () => {
      socket.destroy();
      done(true);
    });
    socket.on("error", () => done(false));
  });
}
