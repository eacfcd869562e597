import { existsSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { lastLines, start } from "../lib/processes.mjs";

const READY_SECONDS_MAX = 30;

/** Starts `kvferry serve` with the storage that `storage` (flags) names, and waits until it takes connections. */
export async function startServer(root, storage, socket) {
  const cli = join(root, "apps/connector-server/dist/cli.js");
  if (!existsSync(cli)) throw new Error(`${cli} is not there: npm run build`);
  const args = [cli, "serve", ...storage, "--socket", socket, "--http", "off", "--log-level", "warn"];
  const server = start(process.execPath, args, { stdout: "ignore" });
  let over = false;
  server.ended.then(() => {
    over = true;
  });
  const deadline = performance.now() + READY_SECONDS_MAX * 1000;
  while (!(await accepts(socket))) {
    if (over || performance.now() > deadline) {
      throw new Error(`the server did not come up\n${lastLines(server.errors(), 20)}`);
    }
    await new Promise((done) => setTimeout(done, 50));
  }
  return server;
}

function accepts(path) {
  return new Promise((done) => {
    const socket = connect(path, () => {
      socket.destroy();
      done(true);
    });
    socket.on("error", () => done(false));
  });
}
