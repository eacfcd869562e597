// Memory on a GPU as JavaScript has it. There is no GPU here: processes are started with a stand-in for its driver.
import { spawn, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { crc32c } from "../src/index.js";
import { addonPath, DEVICE_LOST_CODE, FAILED, LOADED, STORED, scratch } from "./helpers.js";
import { makeStandInCuda, type StandInCuda } from "./stand-in-cuda.js";

const TIMEOUT_MS = 120_000;
const PAGE = 4096;
const PAGES = 16;

/** Has memory whose page p is full of p + 1, and answers each line with its checksum. */
const OWNER = `
  const addon = require(process.argv[1]);
  const [gpu] = addon.cudaReport().gpus;
  const memory = new addon.OwnCudaMemory(gpu.uuid, ${PAGE * PAGES});
  memory.write(Uint8Array.from({ length: ${PAGE * PAGES} }, (_, i) => Math.floor(i / ${PAGE}) + 1));
  const hex = (bytes) => Buffer.from(bytes).toString("hex");
  console.log(JSON.stringify({ uuid: hex(gpu.uuid), handle: hex(memory.handle) }));
  process.stdin.on("data", () => console.log(JSON.stringify({ sum: addon.crc32c(memory.read()) })));
  process.stdin.on("end", () => memory.close());`;

/** Gathers pages 3, none and 1 twice, scatters them to 4, none and 5, and says how that went. */
const USER = `
  const addon = require(process.argv[1]);
  const [uuid, handle] = process.argv.slice(2).map((hex) => Buffer.from(hex, "hex"));
  const main = async () => {
    const region = addon.createRegion({ rows: 1, rowBytes: ${3 * PAGE} }, false);
    region.bytes.fill(0xaa);
    const engine = new addon.FileEngine(2, 64);
    const device = await engine.openDevice({
      memory: { kind: "cuda", uuid, memories: [{ handle, offset: 0, bytes: ${PAGE * PAGES} }] },
      layout: {
        tensors: [{ memory: 0, offset: 0, strideBytes: ${PAGE}, pageBytes: ${PAGE}, pages: ${PAGES} }],
        groups: [[{ tensor: 0, bytes: ${PAGE} }]],
        blocksPerChunk: 3,
      },
      hostRegions: [region],
    });
    const copies = (...blocks) => ({ host: region.bytes, hostOffsets: Float64Array.of(0), groups: Uint32Array.of(0), blocks: Uint32Array.from(blocks) });
    const results = [];
    const keep = ({ outcomes, codes }) => results.push([outcomes[0], codes[0]]);
    keep(await device.copy(false, copies(3, 0xffffffff, 1), 1));
    const pages = [0, 1, 2].map((i) => [...new Set(region.bytes.subarray(i * ${PAGE}, (i + 1) * ${PAGE}))]);
    keep(await device.copy(false, copies(3, 0xffffffff, 1), 2));
    keep(await device.copy(true, copies(4, 0xffffffff, 5), 3));
    const stats = device.stats();
    await device.close();
    await engine.close();
    return { results, pages, stats };
  };
  main().catch(({ code, message, context }) => ({ code, message, context })).then((said) => console.log(JSON.stringify(said)));`;

let standIn: StandInCuda;
beforeAll(async () => {
  standIn = await makeStandInCuda();
}, TIMEOUT_MS);
afterAll(() => standIn.remove());

async function startOwner(env: NodeJS.ProcessEnv) {
  const child = spawn(process.execPath, ["-e", OWNER, addonPath], {
    stdio: ["pipe", "pipe", "inherit"],
    env: { ...process.env, ...env },
  });
  onTestFinished(() => void child.kill());
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => JSON.parse((await lines.next()).value as string) as Record<string, string | number>;
  const { uuid, handle } = await next();
  const sum = (): Promise<number> => {
    child.stdin.write("\n");
    return next().then((message) => message.sum as number);
  };
  return { uuid: String(uuid), handle: String(handle), sum };
}

function use(env: NodeJS.ProcessEnv, uuid: string, handle: string) {
  const { stdout, stderr } = spawnSync(process.execPath, ["-e", USER, addonPath, uuid, handle], {
    env: { ...process.env, ...env },
    encoding: "utf8",
  });
  expect(stderr).toBe("");
  return JSON.parse(stdout);
}

test("the addon needs no library of CUDA to be loaded", () => {
  const { status, stdout } = spawnSync("ldd", [addonPath], { encoding: "utf8" });
  expect(status).toBe(0);
  expect(stdout).toContain("libc");
  expect(stdout).not.toMatch(/cuda|nvidia|cudart/i);
});

test.each(["11.8", "12.8", "13.0"] as const)(
  "a GPU's pages are gathered and scattered with a driver of CUDA %s",
  async (version) => {
    const env = standIn.env(version);
    const owner = await startOwner(env);
    const { results, pages, stats } = use(env, owner.uuid, owner.handle);
    expect(results).toEqual([
      [STORED, 0],
      [STORED, 0],
      [LOADED, 0],
    ]);
    expect(pages).toEqual([[4], [0], [2]]);
    expect(stats).toEqual({ pinnedBytes: 3 * PAGE, unpinnedBytes: 0, unpinnedReason: "", lastError: "" });
    const wanted = Uint8Array.from({ length: PAGE * PAGES }, (_, i) => Math.floor(i / PAGE) + 1);
    wanted.fill(4, 4 * PAGE, 5 * PAGE).fill(2, 5 * PAGE, 6 * PAGE);
    expect(await owner.sum()).toBe(crc32c(wanted));
  },
  TIMEOUT_MS,
);

test(
  "a GPU that is lost, and memory that cannot be page-locked, are told",
  async () => {
    const env = standIn.env("12.8");
    const owner = await startOwner(env);
    const lost = use({ ...env, KVFERRY_STAND_IN_CUDA_FAIL: "run:3=700" }, owner.uuid, owner.handle);
    expect(lost.results).toEqual([
      [STORED, 0],
      [FAILED, DEVICE_LOST_CODE],
      [FAILED, DEVICE_LOST_CODE],
    ]);
    expect(lost.stats.lastError).toContain("CUDA_ERROR_ILLEGAL_ADDRESS (700)");
    const slow = use({ ...env, KVFERRY_STAND_IN_CUDA_FAIL: "cuMemHostRegister_v2:*=2" }, owner.uuid, owner.handle);
    expect(slow.pages).toEqual([[4], [0], [2]]);
    expect(slow.stats).toMatchObject({ pinnedBytes: 0, unpinnedBytes: 3 * PAGE });
    expect(slow.stats.unpinnedReason).toContain("cuMemHostRegister_v2: CUDA_ERROR_OUT_OF_MEMORY (2)");
  },
  TIMEOUT_MS,
);

test(
  "what cannot be opened says why",
  async () => {
    const env = standIn.env("12.8");
    const owner = await startOwner(env);
    const other = use(env, "00".repeat(16), owner.handle);
    expect(other).toMatchObject({ code: "INVALID_ARGUMENT", context: { field: "memory.uuid" } });
    expect(use(env, owner.uuid, "00".repeat(64))).toMatchObject({ code: "DEVICE_FAILED" });
    const folder = scratch();
    writeFileSync(`${folder}/libcuda.so.1`, "no library"); // found first, also on a machine with a driver
    const none = use({ LD_LIBRARY_PATH: folder }, owner.uuid, owner.handle);
    expect(none).toMatchObject({ code: "UNSUPPORTED", message: expect.stringContaining("no CUDA: ") });
  },
  TIMEOUT_MS,
);
