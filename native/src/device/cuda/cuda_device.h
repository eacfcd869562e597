// Engines' memory on a GPU, by CUDA IPC. docs/cuda.md says how, and what it needs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/device.h"

namespace kvferry {

/** One of an engine's memories: `bytes` bytes from `offset` on of the allocation that the 64 bytes of cuIpcGetMemHandle stand for. */
struct CudaMemory {
  std::array<uint8_t, 64> handle{};
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct CudaMemories {
  std::array<uint8_t, 16> uuid{};
  std::vector<CudaMemory> memories;
};

/** Opens memory of another process. Takes up to a second where it is the GPU's first. Throws Error UNSUPPORTED "no CUDA: …"; INVALID_ARGUMENT for a GPU that this process does not see or
 * memory that is not all there; NO_SPACE; DEVICE_FAILED, for instance when that process has ended; DEVICE_LOST when this process has lost the GPU. */
std::unique_ptr<Device> openCudaDevice(const CudaMemories& memories);

}  // namespace kvferry
