#include "device/host_region.h"

#include <cstring>

namespace kvferry {

void HostRegionDevice::copy(Direction direction, const ChunkCopy* chunks, uint32_t count,
                            BlockOutcome* outcomes) noexcept {
  for (uint32_t i = 0; i < count; i++) outcomes[i] = copyChunk(direction, chunks[i]);
}

BlockOutcome HostRegionDevice::copyChunk(Direction direction, const ChunkCopy& chunk) const noexcept {
  for (uint32_t i = 0; i < chunk.count; i++) {
    const Fragment& fragment = chunk.fragments[i];
    const Region& memory = *memories_[fragment.memory];
    uint8_t* const page = memory.data() + fragment.at;
    uint8_t* const host = chunk.host + fragment.hostAt;
    if (memory.gone()) return failed(Code::RegionGone);
    if (direction == Direction::Gather) {
      std::memcpy(host, page, fragment.bytes);
    } else {
      std::memcpy(page, host, fragment.bytes);
    }
    // A page that was taken away was read as zeros, or written to a page that nobody else has.
    if (memory.gone()) return failed(Code::RegionGone);
  }
  return {direction == Direction::Gather ? Outcome::Stored : Outcome::Loaded, Code::None};
}

}  // namespace kvferry
