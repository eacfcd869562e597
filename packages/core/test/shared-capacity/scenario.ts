import { FILE_BYTES, Process, type StorageKind, World } from "./simulation.js";

const CAPACITY_FILES = 40;
const QUOTA_FILES = 12;
const STEPS = 5000;

const capacity = { bytes: CAPACITY_FILES * FILE_BYTES, files: Number.POSITIVE_INFINITY };
const quotas = new Map([["small", QUOTA_FILES * FILE_BYTES]]);

/** What must hold after every step, whoever has crashed or stands still. */
function check(world: World): void {
  if (world.fileCount() > CAPACITY_FILES) throw new Error(`${world.fileCount()} files, ${CAPACITY_FILES} are allowed`);
  if (world.fileCount("small") > QUOTA_FILES) throw new Error(`${world.fileCount("small")} files of one tenant`);
}

/** Something goes wrong. */
function disturb(world: World): void {
  const { random } = world;
  const any = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)];
  const living = world.processes.filter(({ crashed }) => !crashed);
  const leader = living.find((candidate) => candidate.leader !== undefined);
  const target = random() < 0.4 ? leader : any(living);
  const shelf = any([...world.shelves.values()]);
  const kind = random();
  if (kind < 0.3 && target !== undefined) target.paused = true;
  else if (kind < 0.6) for (const process of living) process.paused = process.paused && random() < 0.3;
  else if (kind < 0.72 && target !== undefined) {
    world.crash(target);
    new Process(world, capacity, quotas, random() < 0.7);
  } else if (kind < 0.8) {
    const [text] = any([...(shelf?.blocks ?? [])]) ?? [];
    if (text !== undefined) shelf?.blocks.delete(text); // by hand
  } else if (kind < 0.86 && world.kind === "files") {
    const [text] = any([...(shelf?.blocks ?? [])]) ?? [];
    if (text !== undefined && shelf?.blocks.delete(text) && shelf.quarantined < 3) shelf.quarantined++;
  } else if (kind < 0.96) spoil(world, any([...world.files.keys()]));
  else if (world.processes.every(({ writing, crashed }) => crashed || writing === 0)) world.pass(10 * 60 * 1000);
}

/** Random bytes, nothing, or a flipped bit in place of a file. */
function spoil(world: World, name: string | undefined): void {
  const bytes = world.files.get(name ?? "");
  if (name === undefined || bytes === undefined) return;
  const kind = Math.floor(world.random() * 3);
  if (kind === 0) world.files.set(name, new Uint8Array(0));
  else if (kind === 1)
    world.files.set(
      name,
      bytes.map(() => Math.floor(world.random() * 256)),
    );
  else
    world.files.set(
      name,
      bytes.map((byte, i) => (i === bytes.length >> 1 ? byte ^ 4 : byte)),
    );
}

export async function run(seed: number, kind: StorageKind): Promise<World> {
  const world = new World(seed, ["", "small"], kind);
  for (let i = 0; i < 3; i++) new Process(world, capacity, quotas, i !== 2);
  for (let i = 0; i < STEPS; i++) {
    if (!(await world.advance())) for (const process of world.processes) process.paused = false;
    if (world.random() < 0.005) disturb(world);
    check(world);
  }
  return world;
}

/** All go on undisturbed until `done`. */
export async function calm(world: World, stepsMax: number, done: () => boolean): Promise<boolean> {
  for (const process of world.processes) process.paused = false;
  for (let i = 0; i < stepsMax && !done(); i++) {
    await world.advance();
    check(world);
  }
  return done();
}
