import { readFileSync } from "node:fs";
import { SftpBackend } from "@kvferry/backend-sftp";
import ssh2 from "ssh2";
import { each, openContender } from "../lib/contest.mjs";

async function kvferry(workload) {
  const { server, root } = workload;
  const { host, port, user, hostKey, keyFile: privateKeyFile } = server;
  const backend = new SftpBackend({ host, port, user, hostKey, privateKeyFile, root });
  return openContender(backend, workload);
}

/** What comes to mind first: a connection, `writeFile` for each block, `createReadStream` for each block, so many at once. */
function naive(filesAtOnce) {
  return async ({ server, root, blockBytes, blocks, memory }) => {
    const { host, port, user: username, keyFile } = server;
    const client = await new Promise((resolve, reject) => {
      const connecting = new ssh2.Client();
      connecting.on("ready", () => resolve(connecting)).on("error", reject);
      connecting.connect({ host, port, username, privateKey: readFileSync(keyFile) });
      connecting.on("ready", () => connecting.setNoDelay(true)); // or every read waits 40 ms for an acknowledgement
    });
    const sftp = await call((done) => client.sftp(done));
    const pathOf = (i) => `${root}/naive-${filesAtOnce}-${blockBytes}-${i}`;
    const slotOf = (i) => Buffer.from(memory.bytes.buffer, i * blockBytes, blockBytes);
    return {
      store: () => each(blocks, filesAtOnce, (i) => call((done) => sftp.writeFile(pathOf(i), slotOf(i), done))),
      load: () => each(blocks, filesAtOnce, (i) => copyInto(sftp.createReadStream(pathOf(i)), slotOf(i))),
      clear: () => each(blocks, 64, (i) => call((done) => sftp.unlink(pathOf(i), done))),
      close: async () => client.end(),
    };
  };
}

export const CONTENDERS = { kvferry, naive: naive(1), "naive-32": naive(32) };

function call(action) {
  return new Promise((resolve, reject) => {
    action((error, value) => (error ? reject(error) : resolve(value)));
  });
}

function copyInto(stream, slot) {
  return new Promise((resolve, reject) => {
    let at = 0;
    stream.on("data", (chunk) => {
      slot.set(chunk, at);
      at += chunk.length;
    });
    stream.on("close", () => (at === slot.length ? resolve() : reject(new Error(`${at} bytes of ${slot.length}`))));
    stream.on("error", reject);
  });
}
