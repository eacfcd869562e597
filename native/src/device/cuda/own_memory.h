// Device memory of this process, handed out as an engine does it: for trying a GPU.
#pragma once

#include <memory>

#include "device/cuda/cuda_device.h"

namespace kvferry {

namespace cuda {
class Gpu;
}

class OwnCudaMemory {
 public:
  /** Throws Error as `openCudaDevice` does. */
  OwnCudaMemory(const std::array<uint8_t, 16>& uuid, uint64_t bytes);
  ~OwnCudaMemory();
  OwnCudaMemory(const OwnCudaMemory&) = delete;
  OwnCudaMemory& operator=(const OwnCudaMemory&) = delete;

  /** For another process: this one cannot open it. */
  const std::array<uint8_t, 64>& handle() const { return handle_; }
  uint64_t bytes() const { return bytes_; }
  /** Copies all of it, and returns when it is done. Throw Error NO_SPACE, DEVICE_FAILED or DEVICE_LOST. */
  void write(const uint8_t* from);
  void read(uint8_t* to) const;

 private:
  const std::shared_ptr<cuda::Gpu> gpu_;
  const uint64_t bytes_;
  uint64_t address_ = 0;
  std::array<uint8_t, 64> handle_{};
};

}  // namespace kvferry
