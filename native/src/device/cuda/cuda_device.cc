#include "device/cuda/cuda_device.h"

#include "common/codes.h"

namespace kvferry {

std::unique_ptr<Device> openCudaDevice(const CudaMemories&) {
  throw Error(Code::Unsupported, "no CUDA: this build of @kvferry/native reaches no GPU memory; use tier mode");
}

}  // namespace kvferry
