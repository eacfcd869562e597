#include "device/cuda/gpu.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "device/cuda/errors.h"

namespace kvferry::cuda {
namespace {

// None of them is ever destroyed: threads of a process that is exiting may still copy.
Shared<Uuid, Gpu>& gpus() {
  static auto* const all = new Shared<Uuid, Gpu>();
  return *all;
}

std::mutex lostMutex;
std::set<Uuid>& lostGpus() {
  static auto* const all = new std::set<Uuid>();
  return *all;
}

[[noreturn]] void throwLost(const Uuid& uuid) {
  throw Error(Code::DeviceLost, uuidText(uuid) + " was lost by this process; only a new process can use it again");
}

Ordinal ordinalOf(const Driver& driver, const Uuid& uuid) {
  int count = 0;
  if (const Result result = driver.deviceGetCount(&count)) {
    throw Error(codeOfOpening(result), "cuDeviceGetCount: " + driver.textOf(result));
  }
  for (int i = 0; i < count; i++) {
    Ordinal ordinal = 0;
    UuidBytes bytes{};
    if (driver.deviceGet(&ordinal, i) != kSuccess || driver.deviceGetUuid(&bytes, ordinal) != kSuccess) continue;
    if (std::memcmp(bytes.bytes, uuid.data(), uuid.size()) == 0) return ordinal;
  }
  throw Error::ofField("memory.uuid", "must be of a GPU that this process sees; of those " + std::to_string(count) +
                                          " none is " + uuidText(uuid) +
                                          ". CUDA_VISIBLE_DEVICES and the container's settings decide which it sees");
}

}  // namespace

std::string uuidText(const Uuid& uuid) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (size_t i = 0; i < uuid.size(); i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += digits[uuid[i] >> 4];
    text += digits[uuid[i] & 15];
  }
  return text;
}

bool takesBatches(const Driver& driver, Ordinal ordinal) {
  // They take addresses as the GPU sees them. Where those of page-locked memory are others than ours (WSL), a batch would break the context.
  int sameAddresses = 0;
  return driver.hasBatch() &&
         driver.deviceGetAttribute(&sameAddresses, kAttributeHostPointerOfRegisteredMemory, ordinal) == kSuccess &&
         sameAddresses == 1;
}

std::shared_ptr<Gpu> Gpu::open(const Uuid& uuid) {
  const Driver& found = cuda::driver();
  {
    const std::lock_guard lock(lostMutex);
    if (lostGpus().contains(uuid)) throwLost(uuid);
  }
  return gpus().acquire(uuid, [&] { return std::unique_ptr<Gpu>(new Gpu(found, uuid, ordinalOf(found, uuid))); });
}

Gpu::Gpu(const Driver& driver, const Uuid& uuid, Ordinal ordinal) : driver_(driver), uuid_(uuid), ordinal_(ordinal) {
  // Threads that wait for the GPU sleep rather than spin. Refused where someone else in the process has a context already: that one's setting stays.
  driver_.primaryCtxSetFlags(ordinal, kSchedBlockingSync);
  if (const Result result = driver_.primaryCtxRetain(&context_, ordinal)) failOpening("cuDevicePrimaryCtxRetain", result);
  int value = 0;
  pitchMax_ = driver_.deviceGetAttribute(&value, kAttributeMaxPitch, ordinal) == kSuccess ? static_cast<size_t>(std::max(value, 0)) : 0;
  usesBatches_.store(takesBatches(driver_, ordinal));
}

Gpu::~Gpu() {
  endLanes();
  driver_.primaryCtxRelease(ordinal_);
}

void Gpu::endLanes() noexcept {
  const CurrentContext current(*this);
  for (auto& lanes : lanes_) {
    for (const auto& lane : lanes) {
      driver_.eventDestroy(lane->event);
      driver_.streamDestroy(lane->stream);
    }
  }
}

void Gpu::requireFound() const {
  if (lost()) throwLost(uuid_);
}

void Gpu::note(const char* call, Result result) noexcept {
  try {
    const std::string text = std::string(call) + ": " + driver_.textOf(result);
    const std::lock_guard lock(mutex_);
    lastError_ = text;
  } catch (const std::bad_alloc&) {
    // The code says enough.
  }
}

Code Gpu::copyFailed(const char* call, Result result) noexcept {
  note(call, result);
  const Code code = codeOfCopy(result);
  if (code == Code::DeviceLost) lose();
  return code;
}

void Gpu::failOpening(const char* call, Result result) {
  note(call, result);
  const Code code = codeOfOpening(result);
  if (code == Code::DeviceLost) lose();
  throw Error(code, uuidText(uuid_) + ": " + call + ": " + driver_.textOf(result));
}

std::string Gpu::lastError() const {
  const std::lock_guard lock(mutex_);
  return lastError_;
}

void Gpu::lose() noexcept {
  lost_.store(true, std::memory_order_release);
  try {
    const std::lock_guard lock(lostMutex);
    lostGpus().insert(uuid_);
  } catch (const std::bad_alloc&) {
    // Lost for its users of now, then.
  }
}

std::unique_ptr<Lane> Gpu::takeLane(Direction direction) {
  {
    const std::lock_guard lock(mutex_);
    auto& lanes = lanes_[static_cast<size_t>(direction)];
    if (!lanes.empty()) {
      std::unique_ptr<Lane> lane = std::move(lanes.back());
      lanes.pop_back();
      return lane;
    }
  }
  auto lane = std::make_unique<Lane>();
  int least = 0;
  int greatest = 0;
  driver_.ctxGetStreamPriorityRange(&least, &greatest);  // where it fails both stay 0, the common priority
  const int priority = direction == Direction::Scatter ? greatest : least;
  if (const Result result = driver_.streamCreateWithPriority(&lane->stream, kStreamNonBlocking, priority)) {
    failOpening("cuStreamCreateWithPriority", result);
  }
  if (const Result result = driver_.eventCreate(&lane->event, kEventBlockingSync | kEventDisableTiming)) {
    driver_.streamDestroy(lane->stream);
    failOpening("cuEventCreate", result);
  }
  return lane;
}

void Gpu::giveLane(Direction direction, std::unique_ptr<Lane> lane) noexcept {
  try {
    const std::lock_guard lock(mutex_);
    lanes_[static_cast<size_t>(direction)].push_back(std::move(lane));
  } catch (const std::bad_alloc&) {
    // Only this lane's stream is lost, until the context ends.
  }
}

CurrentContext::CurrentContext(Gpu& gpu) : driver_(gpu.driver_), result_(gpu.driver_.ctxPushCurrent(gpu.context_)) {}

CurrentContext::~CurrentContext() {
  Context popped = nullptr;
  if (result_ == kSuccess) driver_.ctxPopCurrent(&popped);
}

}  // namespace kvferry::cuda
