// Layouts that chance makes, and what a gather or scatter of one must do, page by page.
#pragma once

#include <cstring>
#include <random>

#include "device/parts.h"
#include "fixture.h"

namespace kvferry::test {

using Random = std::mt19937_64;

inline uint64_t upTo(Random& random, uint64_t most) { return random() % (most + 1); }

/** Small numbers, so that pages touch, share memories and differ in size often. */
inline LayoutShape randomShape(Random& random, const std::vector<uint64_t>& memoryBytes) {
  LayoutShape shape;
  shape.blocksPerChunk = static_cast<uint32_t>(1 + upTo(random, 5));
  const uint64_t tensors = 1 + upTo(random, 5);
  for (uint64_t i = 0; i < tensors; i++) {
    DeviceTensor tensor;
    tensor.memory = static_cast<uint32_t>(upTo(random, memoryBytes.size() - 1));
    tensor.pageBytes = 1 + upTo(random, 300);
    tensor.strideBytes = tensor.pageBytes + (random() % 2 == 0 ? 0 : upTo(random, 200));
    tensor.offset = upTo(random, 1000);
    const uint64_t room = memoryBytes[tensor.memory] - tensor.offset;
    tensor.pages = 1 + upTo(random, (room - tensor.pageBytes) / tensor.strideBytes);
    shape.tensors.push_back(tensor);
  }
  const uint64_t groups = 1 + upTo(random, 3);
  for (uint64_t i = 0; i < groups; i++) {
    std::vector<GroupTensor>& uses = shape.groups.emplace_back();
    for (uint32_t t = 0; t < shape.tensors.size(); t++) {
      const uint64_t pageBytes = shape.tensors[t].pageBytes;
      if (random() % 3 == 0) continue;
      uses.push_back({t, random() % 2 == 0 ? pageBytes : 1 + upTo(random, pageBytes - 1)});
    }
    std::shuffle(uses.begin(), uses.end(), random);
  }
  return shape;
}

/** Pages of a group, runs of neighbours and absent ones among them. */
inline std::vector<uint32_t> randomBlocks(Random& random, const DeviceLayout& layout, uint32_t group) {
  std::vector<uint32_t> blocks(layout.blocksPerChunk());
  for (size_t i = 0; i < blocks.size(); i++) {
    const uint64_t pages = std::min<uint64_t>(layout.pagesOf(group), 1000);
    const bool neighbour = i > 0 && blocks[i - 1] != kNoBlock && blocks[i - 1] + 1 < pages && random() % 2 == 0;
    blocks[i] = neighbour ? blocks[i - 1] + 1 : static_cast<uint32_t>(upTo(random, pages - 1));
    if (random() % 6 == 0) blocks[i] = kNoBlock;
  }
  return blocks;
}

/** Calls `each(memory, at, hostAt, bytes)` for every page of a chunk. */
template <typename Each>
void forPages(const LayoutShape& shape, uint32_t group, const uint32_t* blocks, Each each) {
  uint64_t column = 0;
  for (uint32_t t = 0; t < shape.tensors.size(); t++) {
    const DeviceTensor& tensor = shape.tensors[t];
    for (const GroupTensor& use : shape.groups[group]) {
      if (use.tensor != t) continue;
      for (uint32_t i = 0; i < shape.blocksPerChunk; i++) {
        if (blocks[i] == kNoBlock) continue;
        each(tensor.memory, tensor.offset + blocks[i] * tensor.strideBytes, column + i * tensor.pageBytes, use.bytes);
      }
    }
    column += tensor.pageBytes * shape.blocksPerChunk;
  }
}

/** What a gather must leave in the host memory. */
inline std::vector<uint8_t> gatheredPart(const LayoutShape& shape, const std::vector<std::vector<uint8_t>>& memories,
                                         uint64_t partBytes, uint32_t group, const uint32_t* blocks) {
  std::vector<uint8_t> part(partBytes, 0);
  forPages(shape, group, blocks, [&](uint32_t memory, uint64_t at, uint64_t hostAt, uint64_t bytes) {
    std::memcpy(part.data() + hostAt, memories[memory].data() + at, bytes);
  });
  return part;
}

}  // namespace kvferry::test
