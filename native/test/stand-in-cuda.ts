/** The stand-in for libcuda.so.1 (test/stand-in-libcuda), built for tests of processes that are started with `env`. */
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export interface StandInCuda {
  /** Of a driver of that version, with devices of its own. */
  env(version: "11.8" | "12.8" | "13.0"): NodeJS.ProcessEnv;
  remove(): void;
}

export async function makeStandInCuda(): Promise<StandInCuda> {
  const folder = mkdtempSync(join(tmpdir(), "kvferry-stand-in-cuda-"));
  const script = fileURLToPath(new URL("../scripts/stand-in-libcuda.mjs", import.meta.url));
  await promisify(execFile)(process.execPath, [script, folder]);
  let used = 0;
  return {
    env: (version) => {
      const devices = join(folder, `devices-${used++}`);
      mkdirSync(devices);
      return { LD_LIBRARY_PATH: join(folder, version), KVFERRY_STAND_IN_CUDA_FOLDER: devices };
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
