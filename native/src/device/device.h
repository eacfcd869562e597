// Memory of an engine that is not the server's own: where its KV pages are, and copies between them and host memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/codes.h"
#include "region/region.h"

namespace kvferry {

/** To host memory, or from it. */
enum class Direction : uint8_t { Gather, Scatter };

/** One contiguous copy: `bytes` bytes at `at` of the device's memory number `memory`, and at `hostAt` of the chunk's host memory. */
struct Fragment {
  uint32_t memory = 0;
  uint64_t at = 0;
  uint64_t hostAt = 0;
  uint64_t bytes = 0;
};

/** A chunk's copies. Fragments lie within the device's memories: whoever makes them has checked that. */
struct ChunkCopy {
  uint8_t* host = nullptr;
  const Fragment* fragments = nullptr;
  uint32_t count = 0;
};

/** What an operator should know of a device. */
struct DeviceStats {
  /** Of `useHostMemory`: page-locked, and not. */
  uint64_t pinnedBytes = 0;
  uint64_t unpinnedBytes = 0;
  /** Why some is not; "" where all is, or where devices of the kind do not do that. */
  std::string unpinnedReason;
  /** The last call of the device's driver that failed, and what it said; "" if none did. */
  std::string lastError;
};

/** An engine's memory. Threads of an `Engine` call `copy`, several at a time; queueing, priorities and cancellation before the start are the engine's. */
class Device {
 public:
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /** Copies `count` chunks and returns when no byte moves any more. Each ends as STORED (gathered), LOADED (scattered) or FAILED with DEVICE_LOST,
   * DEVICE_FAILED, REGION_GONE, PERMISSION or NO_SPACE; which bytes of a failed chunk have moved is undefined. */
  virtual void copy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept = 0;

  /** Host memory that copies will use often; held until the device ends. A device may page-lock it. Throws Error. */
  virtual void useHostMemory(const std::shared_ptr<Region>& /*region*/) {}

  virtual DeviceStats stats() const { return {}; }

 protected:
  Device() = default;
};

}  // namespace kvferry
