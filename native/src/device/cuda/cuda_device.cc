#include "device/cuda/cuda_device.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "device/cuda/copies.h"
#include "device/cuda/gpu.h"
#include "device/cuda/ipc_memory.h"
#include "device/cuda/pinned_memory.h"

namespace kvferry {
namespace cuda {
namespace {

using Pins = std::vector<std::shared_ptr<PinnedMemory>>;

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(const CudaMemories& memories) : gpu_(Gpu::open(memories.uuid)) {
    const CurrentContext current(*gpu_);
    if (current.result() != kSuccess) gpu_->failOpening("cuCtxPushCurrent_v2", current.result());
    for (size_t i = 0; i < memories.memories.size(); i++) {
      const CudaMemory& memory = memories.memories[i];
      opened_.push_back(IpcMemory::open(*gpu_, memory.handle));
      const uint64_t bytes = opened_.back()->bytes();
      if (memory.offset > bytes || memory.bytes > bytes - memory.offset) {
        throw Error::ofField("memory.memories[" + std::to_string(i) + "]",
                             "must lie in its allocation, which has " + std::to_string(bytes) + " bytes");
      }
      addresses_.push_back(opened_.back()->address() + memory.offset);
    }
  }

  void copy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept override {
    if (const Code code = tryCopy(direction, chunks, count, outcomes); code != Code::None) {
      std::fill_n(outcomes, count, failed(code));
    }
  }

  void useHostMemory(const std::shared_ptr<Region>& region) override {
    gpu_->requireFound();
    const CurrentContext current(*gpu_);
    if (current.result() != kSuccess) gpu_->failOpening("cuCtxPushCurrent_v2", current.result());
    std::shared_ptr<PinnedMemory> pin;
    try {
      pin = PinnedMemory::lock(gpu_, region);
    } catch (const Error& error) {
      if (error.code == Code::DeviceLost) throw;
      // Slower, but as right.
      const std::lock_guard lock(mutex_);
      host_.unpinnedBytes += region->bytes();
      host_.unpinnedReason = error.what();
      return;
    }
    const std::lock_guard lock(mutex_);
    auto pins = std::make_shared<Pins>(*pins_);
    pins->push_back(pin);
    host_.pinnedBytes += pin->bytes();
    pins_ = std::move(pins);
  }

  DeviceStats stats() const override {
    std::string lastError = gpu_->lastError();
    const std::lock_guard lock(mutex_);
    DeviceStats stats = host_;
    stats.lastError = std::move(lastError);
    return stats;
  }

 private:
  /** Sets the outcomes, or answers the code that all chunks failed with. */
  Code tryCopy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept;
  Code end(Lane& lane) noexcept;

  std::shared_ptr<const Pins> pins() const {
    const std::lock_guard lock(mutex_);
    return pins_;
  }

  // In this order, so that mappings and pins end before the context.
  const std::shared_ptr<Gpu> gpu_;
  std::vector<std::shared_ptr<IpcMemory>> opened_;
  std::vector<Address> addresses_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Pins> pins_ = std::make_shared<Pins>();
  DeviceStats host_;
};

bool allPinned(const Pins& pins, const ChunkCopy& chunk) {
  return std::any_of(pins.begin(), pins.end(), [&](const auto& pin) {
    return std::all_of(chunk.fragments, chunk.fragments + chunk.count, [&](const Fragment& fragment) {
      return pin->holds(chunk.host + fragment.hostAt, fragment.bytes);
    });
  });
}

Code CudaDevice::tryCopy(Direction direction, const ChunkCopy* chunks, uint32_t count,
                         BlockOutcome* outcomes) noexcept {
  if (gpu_->lost()) return Code::DeviceLost;
  const CurrentContext current(*gpu_);
  if (current.result() != kSuccess) return gpu_->copyFailed("cuCtxPushCurrent_v2", current.result());
  std::unique_ptr<Lane> lane;
  try {
    lane = gpu_->takeLane(direction);
  } catch (const Error& error) {
    return error.code;
  } catch (const std::bad_alloc&) {
    return Code::NoSpace;
  }
  const std::shared_ptr<const Pins> pins = this->pins();
  const BlockOutcome good{direction == Direction::Gather ? Outcome::Stored : Outcome::Loaded, Code::None};
  for (uint32_t i = 0; i < count; i++) {
    const bool pinned = gpu_->usesBatches() && allPinned(*pins, chunks[i]);
    const Code code = gpu_->lost() ? Code::DeviceLost
                                   : startCopies({*gpu_, *lane, direction, addresses_.data()}, chunks[i], pinned);
    outcomes[i] = code == Code::None ? good : failed(code);
  }
  const Code code = end(*lane);
  gpu_->giveLane(direction, std::move(lane));
  return code;
}

/** Waits until nothing of the lane moves any more, also after a failure. */
Code CudaDevice::end(Lane& lane) noexcept {
  const Driver& driver = gpu_->driver();
  const char* call = "cuEventRecord";
  Result result = driver.eventRecord(lane.event, lane.stream);
  if (result == kSuccess) {
    call = "cuEventSynchronize";
    result = driver.eventSynchronize(lane.event);
    if (result == kSuccess) return Code::None;
  }
  const Code code = gpu_->copyFailed(call, result);
  if (code == Code::DeviceLost) return code;
  const Result waited = driver.streamSynchronize(lane.stream);
  if (waited == kSuccess) return code;
  // What still moves cannot be told, so nobody may use this GPU's answers from here on.
  gpu_->copyFailed("cuStreamSynchronize", waited);
  gpu_->lose();
  return Code::DeviceLost;
}

}  // namespace
}  // namespace cuda

std::unique_ptr<Device> openCudaDevice(const CudaMemories& memories) {
  return std::make_unique<cuda::CudaDevice>(memories);
}

}  // namespace kvferry
