// Blocks from one memory to another, with their CRC-32C, at the speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/codes.h"
#include "region/region.h"

namespace kvferry {

/** Bytes that are copied and then summed while they are still in the cache. */
constexpr size_t kCopyPieceBytes = 32 * 1024;

/** Copies `bytes` bytes and returns their CRC-32C. The two must not overlap, but may be the same: then they are only
 * read. */
uint32_t copyWithChecksum(const uint8_t* from, uint8_t* to, size_t bytes);

/** A memory that blocks are copied from or to. */
struct CopySide {
  uint8_t* memory = nullptr;
  uint64_t rowBytes = 0;
  /** That the memory lies in, or nullptr. */
  Region* region = nullptr;

  uint8_t* row(uint32_t slot) const { return memory + slot * rowBytes; }
  bool gone() const { return region != nullptr && region->gone(); }
};

/** Copies one block. Where `verify`, `checksum` is what it must have: LOADED, CORRUPT or FAILED; else it is set: STORED or FAILED. */
BlockOutcome copyBlock(const CopySide& from, uint32_t fromSlot, const CopySide& to, uint32_t toSlot, size_t bytes,
                       bool verify, uint32_t& checksum);

}  // namespace kvferry
