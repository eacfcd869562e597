#include "device/cuda/ipc_memory.h"

#include <cstring>

#include "device/cuda/gpu.h"

namespace kvferry::cuda {

std::shared_ptr<IpcMemory> IpcMemory::open(Gpu& gpu, const Handle& handle) {
  return gpu.ipcMemories().acquire(handle, [&] { return std::unique_ptr<IpcMemory>(new IpcMemory(gpu, handle)); });
}

IpcMemory::IpcMemory(Gpu& gpu, const Handle& handle) : gpu_(gpu) {
  const Driver& driver = gpu.driver();
  IpcHandle bytes{};
  std::memcpy(bytes.bytes, handle.data(), handle.size());
  if (const Result result = driver.ipcOpenMemHandle(&address_, bytes, kIpcLazyPeerAccess)) {
    gpu.failOpening("cuIpcOpenMemHandle_v2", result);
  }
  Address base = 0;
  size_t length = 0;
  if (driver.memGetAddressRange(&base, &length, address_) == kSuccess && base <= address_) {
    bytes_ = length - (address_ - base);
  }
}

IpcMemory::~IpcMemory() {
  const CurrentContext current(gpu_);
  // Fails where the GPU is lost; the mapping ends with the process then.
  if (current.result() == kSuccess) gpu_.driver().ipcCloseMemHandle(address_);
}

}  // namespace kvferry::cuda
