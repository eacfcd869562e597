// An allocation of another process, mapped here.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "device/cuda/driver.h"

namespace kvferry::cuda {

class Gpu;

/** Ends while its GPU is still there: whoever holds one holds the GPU longer. */
class IpcMemory {
 public:
  using Handle = std::array<uint8_t, 64>;

  /** A handle may be opened once in a process, so its users share the mapping. The GPU's context must be current. Throws Error NO_SPACE, DEVICE_FAILED or DEVICE_LOST. */
  static std::shared_ptr<IpcMemory> open(Gpu& gpu, const Handle& handle);
  ~IpcMemory();
  IpcMemory(const IpcMemory&) = delete;
  IpcMemory& operator=(const IpcMemory&) = delete;

  Address address() const { return address_; }
  /** Bytes of the allocation; UINT64_MAX where the driver does not tell. */
  uint64_t bytes() const { return bytes_; }

 private:
  IpcMemory(Gpu& gpu, const Handle& handle);

  Gpu& gpu_;
  Address address_ = 0;
  uint64_t bytes_ = UINT64_MAX;
};

}  // namespace kvferry::cuda
