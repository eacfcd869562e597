// A worker of an engine, as a process of its own. Its memory is process memory to the server, and shared only so that the test can look into it.
import { createRegion } from "@kvferry/native";
import { DirectWorkerClient } from "@kvferry/protocol";
import { addressOfSharedMemory } from "./direct-address.js";
import type { WorkerAnswer, WorkerOptions, WorkerOrder } from "./direct-worker-process.js";

const { memoryBytes, ...options } = JSON.parse(process.argv[2] as string) as WorkerOptions;
const region = createRegion({ rows: 1, rowBytes: memoryBytes });
const memory = { kind: "process", memories: [addressOfSharedMemory(memoryBytes)] } as const;
const client = await DirectWorkerClient.connect({ ...options, memory });
process.on("disconnect", () => process.exit());
process.on("message", (order: WorkerOrder) => void answer(order).then((each) => process.send?.(each)));
process.send?.({ id: -1, fd: region.fd } satisfies WorkerAnswer);

async function answer({ id, operation, ticket, keys, stride, blocks }: WorkerOrder): Promise<WorkerAnswer> {
  const bytes = Buffer.from(keys, "base64");
  const count = bytes.length / stride;
  const chunks = { keys: { bytes, stride, count }, groups: new Uint32Array(count), blocks: Uint32Array.from(blocks) };
  try {
    const { outcomes } = await (operation === "gather" ? client.gather(ticket, chunks) : client.scatter(chunks));
    return { id, outcomes: [...outcomes] };
  } catch (thrown) {
    return { id, error: String(thrown) };
  }
}
