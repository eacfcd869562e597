// A GPU as this process uses it: its primary context, streams to copy on, and whether it is lost.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/codes.h"
#include "device/cuda/driver.h"
#include "device/cuda/ipc_memory.h"
#include "device/cuda/shared.h"
#include "device/device.h"

namespace kvferry::cuda {

using Uuid = std::array<uint8_t, 16>;

/** "GPU-01234567-89ab-…", as nvidia-smi prints it. */
std::string uuidText(const Uuid& uuid);

/** Whether many copies may go to that GPU in one call. */
bool takesBatches(const Driver& driver, Ordinal ordinal);

/** A stream, the event that ends a job on it, and room for the job's copies. Of one thread at a time. */
struct Lane {
  Stream stream = nullptr;
  Event event = nullptr;
  std::vector<Address> to, from;
  std::vector<size_t> bytes, indexes;
};

class Gpu {
 public:
  /** The GPU of that UUID; its context is made at the first call and ends with the last user. Throws Error UNSUPPORTED (no CUDA), INVALID_ARGUMENT (no such GPU here),
   * DEVICE_LOST (lost before), NO_SPACE or DEVICE_FAILED. */
  static std::shared_ptr<Gpu> open(const Uuid& uuid);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const Driver& driver() const { return driver_; }
  const Uuid& uuid() const { return uuid_; }
  Ordinal ordinal() const { return ordinal_; }
  size_t pitchMax() const { return pitchMax_; }

  /** Throws Error DEVICE_LOST where it is. */
  void requireFound() const;
  bool lost() const { return lost_.load(std::memory_order_acquire); }
  /** `takesBatches`, until the driver says otherwise. */
  bool usesBatches() const { return usesBatches_.load(std::memory_order_relaxed); }
  void stopBatches() { usesBatches_.store(false, std::memory_order_relaxed); }

  /** For `lastError`: a call on this GPU failed. */
  void note(const char* call, Result result) noexcept;
  /** The code of a copy whose call failed. After DEVICE_LOST nothing is copied on this GPU any more. */
  Code copyFailed(const char* call, Result result) noexcept;
  /** Throws Error NO_SPACE, DEVICE_LOST or DEVICE_FAILED with the call's name and what the driver says. */
  [[noreturn]] void failOpening(const char* call, Result result);
  void lose() noexcept;
  /** The last failure, "cuMemcpyHtoDAsync_v2: CUDA_ERROR_OUT_OF_MEMORY (2): …"; "" if there was none. */
  std::string lastError() const;

  /** A lane that nobody uses, made where there is none: at most as many as threads copy at a time. The context must be current. Throws Error. */
  std::unique_ptr<Lane> takeLane(Direction direction);
  void giveLane(Direction direction, std::unique_ptr<Lane> lane) noexcept;

  Shared<std::array<uint8_t, 64>, IpcMemory>& ipcMemories() { return ipcMemories_; }

 private:
  friend class CurrentContext;
  Gpu(const Driver& driver, const Uuid& uuid, Ordinal ordinal);
  void endLanes() noexcept;

  const Driver& driver_;
  const Uuid uuid_;
  const Ordinal ordinal_;
  Context context_ = nullptr;
  size_t pitchMax_ = 0;
  std::atomic<bool> lost_{false};
  std::atomic<bool> usesBatches_{false};
  Shared<std::array<uint8_t, 64>, IpcMemory> ipcMemories_;
  mutable std::mutex mutex_;
  std::string lastError_;
  std::vector<std::unique_ptr<Lane>> lanes_[2];
};

/** Makes a GPU's context the thread's own, and puts back at the end what was before. */
class CurrentContext {
 public:
  explicit CurrentContext(Gpu& gpu);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

  /** kSuccess, or why there is none. */
  Result result() const { return result_; }

 private:
  const Driver& driver_;
  const Result result_;
};

}  // namespace kvferry::cuda
