#include "device/cuda/cuda_report.h"

#include <cstring>

#include "device/cuda/errors.h"
#include "device/cuda/gpu.h"
#include "device/cuda/numa.h"

namespace kvferry {
namespace cuda {
namespace {

void require(const Driver& driver, const char* call, Result result) {
  if (result != kSuccess) throw Error(codeOfOpening(result), std::string(call) + ": " + driver.textOf(result));
}

CudaGpu gpuOf(const Driver& driver, int index) {
  Ordinal ordinal = 0;
  require(driver, "cuDeviceGet", driver.deviceGet(&ordinal, index));
  CudaGpu gpu;
  char text[256] = {};
  require(driver, "cuDeviceGetName", driver.deviceGetName(text, sizeof(text) - 1, ordinal));
  gpu.name = text;
  UuidBytes uuid{};
  require(driver, "cuDeviceGetUuid_v2", driver.deviceGetUuid(&uuid, ordinal));
  std::memcpy(gpu.uuid.data(), uuid.bytes, gpu.uuid.size());
  size_t bytes = 0;
  require(driver, "cuDeviceTotalMem_v2", driver.deviceTotalMem(&bytes, ordinal));
  gpu.memoryBytes = bytes;
  char bus[32] = {};
  require(driver, "cuDeviceGetPCIBusId", driver.deviceGetPciBusId(bus, sizeof(bus) - 1, ordinal));
  gpu.pciBusId = bus;
  gpu.numaNode = numaNodeOf(driver, ordinal);
  gpu.batchedCopies = takesBatches(driver, ordinal);
  return gpu;
}

}  // namespace
}  // namespace cuda

CudaReport cudaReport() {
  const cuda::Driver& driver = cuda::driver();
  CudaReport report{cuda::versionText(driver.version), {}};
  int count = 0;
  cuda::require(driver, "cuDeviceGetCount", driver.deviceGetCount(&count));
  for (int i = 0; i < count; i++) report.gpus.push_back(cuda::gpuOf(driver, i));
  return report;
}

}  // namespace kvferry
