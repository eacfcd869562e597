// What there is of CUDA on this machine.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace kvferry {

struct CudaGpu {
  std::string name;
  std::array<uint8_t, 16> uuid{};
  uint64_t memoryBytes = 0;
  std::string pciBusId;
  /** -1 where that cannot be told, or there is only one. */
  int numaNode = -1;
  /** Many copies go to the driver in one call. */
  bool batchedCopies = false;
};

struct CudaReport {
  /** What the driver supports, "12.8". */
  std::string version;
  std::vector<CudaGpu> gpus;
};

/** The GPUs that this process sees; makes no context on them. Throws Error UNSUPPORTED "no CUDA: …", NO_SPACE, DEVICE_FAILED, DEVICE_LOST. */
CudaReport cudaReport();

}  // namespace kvferry
