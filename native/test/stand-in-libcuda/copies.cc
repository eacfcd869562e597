// Copies: checked and poisoned when they are started, done later by the stream.
#include <algorithm>
#include <cstring>

#include "stand_in.h"

namespace stand_in {
namespace {

constexpr uint64_t kPageableStep = 64 * 1024;
constexpr uint64_t kPageableStepMicros = 10;
/** Injected, a copy is not done and nobody is told. */
constexpr int kDropped = -1;

/** CUDA_MEMCPY2D_v2, written down apart from the code under test. */
struct Copy2D {
  uint64_t sourceX, sourceY;
  int32_t sourceType;
  const void* sourceHost;
  uint64_t sourceDevice;
  void* sourceArray;
  uint64_t sourcePitch;
  uint64_t targetX, targetY;
  int32_t targetType;
  void* targetHost;
  uint64_t targetDevice;
  void* targetArray;
  uint64_t targetPitch;
  uint64_t width, height;
};
static_assert(sizeof(Copy2D) == 128 && offsetof(Copy2D, targetX) == 56 && offsetof(Copy2D, width) == 112);

/** CUmemcpyAttributes_v1. */
struct Attributes {
  int32_t order, fromType, fromId, toType, toId;
  uint32_t flags;
};

uint64_t delayMax() {
  static const uint64_t micros = numberSetting("DELAY_US", 40);
  return micros;
}

}  // namespace

int prepare(Copy& copy, bool toDevice, uint64_t address, const void* host, uint64_t bytes) {
  copy.allocation = allocationAt(address, bytes);
  if (!copy.allocation || allocationAt(reinterpret_cast<uint64_t>(host), 1)) return kInvalidValue;
  const HostKind kind = hostKind(host, bytes);
  if (kind == HostKind::Partly) return kInvalidValue;
  copy.pinned = kind == HostKind::Pinned;
  copy.toDevice = toDevice;
  copy.offset = address - copy.allocation->address;
  copy.host = static_cast<uint8_t*>(const_cast<void*>(host));
  copy.bytes = bytes;
  return kSuccess;
}

int runCopy(const Copy& copy, Context* context) {
  if (context->sticky != 0) return context->sticky;
  if (const int result = injected("run", context)) return result == kDropped ? kSuccess : result;
  if (copy.allocation->freed->load() != 0) {
    context->sticky = kIllegalAddress;
    return kIllegalAddress;
  }
  uint8_t* const device = copy.allocation->physical + copy.offset;
  if (copy.toDevice) {
    std::memcpy(device, copy.host, copy.bytes);
  } else {
    std::memcpy(copy.host, device, copy.bytes);
  }
  return kSuccess;
}

int start(std::vector<Copy> copies, Stream* stream) {
  counters().copies += copies.size();
  const bool pinned = std::all_of(copies.begin(), copies.end(), [](const Copy& copy) { return copy.pinned; });
  if (!pinned) {
    // The driver stages it, by and by; the caller waits.
    drain(stream);
    for (const Copy& copy : copies) {
      for (uint64_t done = 0; done < copy.bytes; done += kPageableStep) delay(kPageableStepMicros);
      if (const int result = runCopy(copy, stream->context)) return result;
    }
    return kSuccess;
  }
  for (const Copy& copy : copies) {
    std::memset(copy.toDevice ? copy.allocation->physical + copy.offset : copy.host, kPoison, copy.bytes);
  }
  submit(stream, [copies = std::move(copies), context = stream->context]() mutable {
    for (size_t i = copies.size(); i > 1; i--) std::swap(copies[i - 1], copies[randomNumber() % i]);
    for (const Copy& copy : copies) {
      delay(copies.size() == 1 ? delayMax() : delayMax() / 4);
      if (const int result = runCopy(copy, context)) context->sticky = result;
    }
  });
  return kSuccess;
}

int batch(uint64_t* to, uint64_t* from, size_t* bytes, size_t count, void* attributes, size_t* indexes,
          size_t attributeCount, Stream* stream) {
  const auto* const first = static_cast<const Attributes*>(attributes);
  if (count == 0 || attributeCount != 1 || indexes[0] != 0 || first->order != 1 || stream == nullptr) return kInvalidValue;
  if (count > 4096) std::abort();  // as drivers have been seen to, though with more
  std::vector<Copy> copies(count);
  for (size_t i = 0; i < count; i++) {
    const bool toDevice = allocationAt(to[i], 1) != nullptr;
    if (const int result = prepare(copies[i], toDevice, toDevice ? to[i] : from[i],
                                   reinterpret_cast<void*>(toDevice ? from[i] : to[i]), bytes[i])) {
      return result;
    }
  }
  counters().batches++;
  if (numberSetting("HOST_POINTERS", 1) == 0) {
    submit(stream, [context = stream->context] { context->sticky = kIllegalAddress; });
    return kSuccess;
  }
  return start(std::move(copies), stream);
}

}  // namespace stand_in

using namespace stand_in;

STAND_IN_EXPORT int cuMemcpyHtoDAsync_v2(uint64_t address, const void* host, size_t bytes, Stream* stream) {
  if (const int result = enter("cuMemcpyHtoDAsync_v2", true)) return result;
  Copy copy;
  if (const int result = prepare(copy, true, address, host, bytes)) return result;
  return start({copy}, stream);
}

STAND_IN_EXPORT int cuMemcpyDtoHAsync_v2(void* host, uint64_t address, size_t bytes, Stream* stream) {
  if (const int result = enter("cuMemcpyDtoHAsync_v2", true)) return result;
  Copy copy;
  if (const int result = prepare(copy, false, address, host, bytes)) return result;
  return start({copy}, stream);
}

STAND_IN_EXPORT int cuMemcpyHtoD_v2(uint64_t address, const void* host, size_t bytes) {
  if (const int result = enter("cuMemcpyHtoD_v2", true)) return result;
  Copy copy;
  if (const int result = prepare(copy, true, address, host, bytes)) return result;
  return runCopy(copy, currentContext());
}

STAND_IN_EXPORT int cuMemcpyDtoH_v2(void* host, uint64_t address, size_t bytes) {
  if (const int result = enter("cuMemcpyDtoH_v2", true)) return result;
  Copy copy;
  if (const int result = prepare(copy, false, address, host, bytes)) return result;
  return runCopy(copy, currentContext());
}

STAND_IN_EXPORT int cuMemcpy2DAsync_v2(const Copy2D* plan, Stream* stream) {
  if (const int result = enter("cuMemcpy2DAsync_v2", true)) return result;
  const bool toDevice = plan->targetType == 2;
  if (plan->sourceType != (toDevice ? 1 : 2) || (!toDevice && plan->targetType != 1)) return kInvalidValue;
  if (plan->sourceX != 0 || plan->sourceY != 0 || plan->targetX != 0 || plan->targetY != 0) return kInvalidValue;
  if (plan->width > plan->sourcePitch || plan->width > plan->targetPitch) return kInvalidValue;
  counters().copies2D++;
  std::vector<Copy> copies(plan->height);
  for (uint64_t row = 0; row < plan->height; row++) {
    const uint64_t address = (toDevice ? plan->targetDevice : plan->sourceDevice) + row * (toDevice ? plan->targetPitch : plan->sourcePitch);
    const auto* const host = static_cast<const uint8_t*>(toDevice ? plan->sourceHost : plan->targetHost) + row * (toDevice ? plan->sourcePitch : plan->targetPitch);
    if (const int result = prepare(copies[row], toDevice, address, host, plan->width)) return result;
  }
  return start(std::move(copies), stream);
}
