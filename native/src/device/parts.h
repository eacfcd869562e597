// Parts of chunks between a device and host memory, whoever owns that memory.
#pragma once

#include <cstdint>

#include "device/layout.h"

namespace kvferry {

/** One chunk's part: `partBytes` bytes of host memory, and the pages that belong there. */
struct Part {
  uint8_t* host = nullptr;
  uint32_t group = 0;
  /** `blocksPerChunk` page numbers of the group, or kNoBlock. */
  const uint32_t* blocks = nullptr;
};

/** Copies parts and returns when no byte moves any more. Gathered parts are whole: what is not copied becomes zeros. `region`: that the host
 * memory lies in, or nullptr; once it has lost pages, its parts are FAILED with REGION_GONE. Outcomes as those of `Device::copy`. */
void copyParts(Device& device, const DeviceLayout& layout, Direction direction, const Part* parts, uint32_t count,
               Region* region, BlockOutcome* outcomes) noexcept;

}  // namespace kvferry
