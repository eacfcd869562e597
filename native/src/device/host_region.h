// A device whose memories are shared memory that is mapped here.
#pragma once

#include <vector>

#include "device/device.h"

namespace kvferry {

class HostRegionDevice final : public Device {
 public:
  explicit HostRegionDevice(std::vector<std::shared_ptr<Region>> memories) : memories_(std::move(memories)) {}

  void copy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept override;

 private:
  BlockOutcome copyChunk(Direction direction, const ChunkCopy& chunk) const noexcept;

  const std::vector<std::shared_ptr<Region>> memories_;
};

}  // namespace kvferry
