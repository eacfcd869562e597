#include "device/cuda/pinned_memory.h"

#include "device/cuda/numa.h"

namespace kvferry::cuda {
namespace {

Shared<uint64_t, PinnedMemory>& all() {
  static auto* const memories = new Shared<uint64_t, PinnedMemory>();
  return *memories;
}

}  // namespace

std::shared_ptr<PinnedMemory> PinnedMemory::lock(const std::shared_ptr<Gpu>& gpu,
                                                 const std::shared_ptr<Region>& region) {
  return all().acquire(region->id(), [&] { return std::unique_ptr<PinnedMemory>(new PinnedMemory(gpu, region)); });
}

PinnedMemory::PinnedMemory(const std::shared_ptr<Gpu>& gpu, const std::shared_ptr<Region>& region)
    : gpu_(gpu), region_(region) {
  const Driver& driver = gpu->driver();
  preferNode(region->data(), region->bytes(), numaNodeOf(driver, gpu->ordinal()));
  // In one piece: copies must not span two.
  const Result result = driver.memHostRegister(region->data(), region->bytes(), kHostRegisterPortable);
  if (result != kSuccess) gpu->failOpening("cuMemHostRegister_v2", result);
}

PinnedMemory::~PinnedMemory() {
  const CurrentContext current(*gpu_);
  // Fails where that GPU is lost; the pages stay locked until the process ends then.
  if (current.result() == kSuccess) gpu_->driver().memHostUnregister(region_->data());
}

}  // namespace kvferry::cuda
