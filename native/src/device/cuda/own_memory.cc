#include "device/cuda/own_memory.h"

#include <cstring>

#include "device/cuda/gpu.h"

namespace kvferry {
namespace {

void require(cuda::Gpu& gpu, const char* call, cuda::Result result) {
  if (result != cuda::kSuccess) gpu.failOpening(call, result);
}

}  // namespace

OwnCudaMemory::OwnCudaMemory(const std::array<uint8_t, 16>& uuid, uint64_t bytes)
    : gpu_(cuda::Gpu::open(uuid)), bytes_(bytes) {
  const cuda::CurrentContext current(*gpu_);
  require(*gpu_, "cuCtxPushCurrent_v2", current.result());
  require(*gpu_, "cuMemAlloc_v2", gpu_->driver().memAlloc(&address_, bytes));
  cuda::IpcHandle handle{};
  if (const cuda::Result result = gpu_->driver().ipcGetMemHandle(&handle, address_)) {
    gpu_->driver().memFree(address_);
    gpu_->failOpening("cuIpcGetMemHandle", result);
  }
  std::memcpy(handle_.data(), handle.bytes, handle_.size());
}

OwnCudaMemory::~OwnCudaMemory() {
  const cuda::CurrentContext current(*gpu_);
  if (current.result() == cuda::kSuccess) gpu_->driver().memFree(address_);
}

void OwnCudaMemory::write(const uint8_t* from) {
  const cuda::CurrentContext current(*gpu_);
  require(*gpu_, "cuCtxPushCurrent_v2", current.result());
  require(*gpu_, "cuMemcpyHtoD_v2", gpu_->driver().memcpyHtoD(address_, from, bytes_));
}

void OwnCudaMemory::read(uint8_t* to) const {
  const cuda::CurrentContext current(*gpu_);
  require(*gpu_, "cuCtxPushCurrent_v2", current.result());
  require(*gpu_, "cuMemcpyDtoH_v2", gpu_->driver().memcpyDtoH(to, address_, bytes_));
}

}  // namespace kvferry
