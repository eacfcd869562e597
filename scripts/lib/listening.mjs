// For real servers that tests start: a port, and when they are there.
import { createServer } from "node:net";

const POLL_MS = 50;

/** A port of the loopback interface that was free a moment ago. */
export function freePort() {
  return new Promise((done, failed) => {
    const server = createServer();
    server.on("error", failed);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });
}

/**
 * Waits until a server answers.
 *
 * @param {() => Promise<boolean>} answers
 * @param {{ended: Promise<unknown>, errors(): string}} server
 * @param {{name: string, msMax: number}} options
 * @throws {Error} with what the server has said, where it ends before or takes too long
 */
export async function untilListening(answers, server, { name, msMax }) {
  const until = performance.now() + msMax;
  let over = false;
  server.ended.then(() => {
    over = true;
  });
  while (!(await answers())) {
    if (over || performance.now() > until) throw new Error(`${name} did not begin to listen\n${server.errors()}`);
    await new Promise((done) => setTimeout(done, POLL_MS));
  }
}
