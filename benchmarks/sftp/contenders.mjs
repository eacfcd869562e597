import { readFileSync } from "node:fs";
import { SftpBackend } from "@kvferry/backend-sftp";
import { countOutcome, createMemoryRegion, createNamespace, Outcome, packKeys } from "@kvferry/core";
import ssh2 from "ssh2";

const KEY_BYTES = 36;

/** What all contenders move: the same region, `blocks` blocks of pseudo-random bytes. */
export function makeWorkload(options) {
  const { blockBytes, blocks } = options;
  const region = createMemoryRegion(blocks, blockBytes);
  const words = new Uint32Array(region.bytes.buffer, 0, (blocks * blockBytes) >> 2);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    words[i] = state;
  }
  return { ...options, memory: region, bytes: blocks * blockBytes };
}

async function kvferry({ server, root, blockBytes, blocks, memory }) {
  const { host, port, user, hostKey, keyFile: privateKeyFile } = server;
  const backend = new SftpBackend({ host, port, user, hostKey, privateKeyFile, root });
  await backend.open({ namespace: namespace(), keyBytes: KEY_BYTES, blockBytes });
  const slots = Uint32Array.from({ length: blocks }, (_, i) => i);
  let round = 0;
  let keys;
  const expect = (result, outcome) => {
    if (countOutcome(result, outcome) !== blocks) throw new Error(`not all blocks: ${result.outcomes} ${result.codes}`);
  };
  return {
    async store() {
      keys = packKeys(Array.from({ length: blocks }, (_, i) => keyOf(round, i)));
      round++;
      expect(await backend.store({ keys, region: memory, slots }), Outcome.STORED);
    },
    load: async () => expect(await backend.load({ keys, region: memory, slots }), Outcome.LOADED),
    clear: async () => expect(await backend.remove(keys), Outcome.REMOVED),
    close: () => backend.close(),
  };
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

async function each(count, atOnce, step) {
  let next = 0;
  const work = async () => {
    while (next < count) await step(next++);
  };
  await Promise.all(Array.from({ length: Math.min(count, atOnce) }, work));
}

function keyOf(round, i) {
  const key = new Uint8Array(KEY_BYTES);
  const view = new DataView(key.buffer);
  view.setUint32(0, Math.imul(i + 1, 0x9e3779b1));
  view.setUint32(4, i);
  view.setUint32(8, round);
  return key;
}

function namespace() {
  return createNamespace({
    ...{ model: "benchmark", weights: "00".repeat(32), dtype: "bfloat16", kvDtype: "auto", layout: "benchmark" },
    ...{ tokensPerHash: 16, blocksPerChunk: 1, groups: [{ tokensPerBlock: 16, layers: ["0"] }], parallel: null },
    ...{ engine: "benchmark", engineVersion: "1", formatVersion: 1, tenant: "" },
  });
}
