// A region that the driver has page-locked: copies of it run at full speed and beside the caller.
#pragma once

#include <cstdint>
#include <memory>

#include "device/cuda/gpu.h"
#include "region/region.h"

namespace kvferry::cuda {

class PinnedMemory {
 public:
  /** Locks the region's pages, for all GPUs; they are brought in, near that GPU where it can be told, which takes about a second for some GiB. A region is locked once in a
   * process, so its users share that. The GPU's context must be current. Throws Error NO_SPACE, DEVICE_FAILED or DEVICE_LOST. */
  static std::shared_ptr<PinnedMemory> lock(const std::shared_ptr<Gpu>& gpu, const std::shared_ptr<Region>& region);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  uint64_t bytes() const { return region_->bytes(); }
  bool holds(const uint8_t* memory, uint64_t bytes) const {
    const auto at = static_cast<uint64_t>(memory - region_->data());  // wraps around for what lies before
    return at <= region_->bytes() && bytes <= region_->bytes() - at;
  }

 private:
  PinnedMemory(const std::shared_ptr<Gpu>& gpu, const std::shared_ptr<Region>& region);

  /** Whose context it was locked in. */
  const std::shared_ptr<Gpu> gpu_;
  const std::shared_ptr<Region> region_;
};

}  // namespace kvferry::cuda
