import type { DirectHelloMessage, DirectMemory } from "./direct-messages.js";
import { wireInteger } from "./wire-integer.js";

/** HELLO of direct mode as it travels: lists of numbers where messages have maps. */
export function wireDirectHello(message: DirectHelloMessage): unknown {
  const { direct } = message;
  const common = { ...message, blockBytes: wireInteger(message.blockBytes) };
  if (direct.role === "scheduler")
    return { ...common, direct: { ...direct, partBytes: wireInteger(direct.partBytes) } };
  return {
    ...common,
    direct: {
      ...direct,
      partBytes: wireInteger(direct.partBytes),
      memory: wireMemory(direct.memory),
      tensors: direct.tensors.map(({ memory, offset, strideBytes, pageBytes, pages }) =>
        [memory, offset, strideBytes, pageBytes, pages].map(wireInteger),
      ),
      groups: direct.groups.map((group) => group.map(({ tensor, bytes }) => [tensor, bytes].map(wireInteger))),
    },
  };
}

function wireMemory(memory: DirectMemory): unknown {
  switch (memory.kind) {
    case "process":
      return { ...memory, memories: memory.memories.map(({ address, bytes }) => [address, bytes].map(wireInteger)) };
    case "cuda":
      return {
        ...memory,
        memories: memory.memories.map(({ handle, offset, bytes }) => [handle, wireInteger(offset), wireInteger(bytes)]),
      };
    case "region":
      return { ...memory, memories: memory.memories.map(({ bytes }) => [wireInteger(bytes)]) };
  }
}
