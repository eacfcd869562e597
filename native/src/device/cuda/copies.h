// Chunks' copies as the driver takes them.
#pragma once

#include "device/cuda/gpu.h"
#include "device/device.h"

namespace kvferry::cuda {

/** Where copies of one direction run, and which memory they move. */
struct CopySides {
  Gpu& gpu;
  Lane& lane;
  Direction direction;
  /** Addresses of the device's memories. */
  const Address* memories;
};

/** How many copies go to the driver in one call. Drivers have been seen to crash with 50,000. */
constexpr uint32_t kBatchCopiesMax = 1024;

/** Starts the copies of a chunk, in whatever order. `pinned`: its host memory is page-locked, so that many may go in one call. Answers Code::None, or why some of them may not have
 * been started; those that have been still run. */
Code startCopies(const CopySides& sides, const ChunkCopy& chunk, bool pinned) noexcept;

}  // namespace kvferry::cuda
