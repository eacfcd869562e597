// Devices, contexts, errors, and the faults that tests ask for.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "control.h"
#include "stand_in.h"

namespace stand_in {
namespace {

std::atomic<bool> initialised{false};
std::mutex mutex;
std::map<int, std::unique_ptr<Context>>& contexts() {
  static auto* const all = new std::map<int, std::unique_ptr<Context>>();
  return *all;
}
thread_local std::vector<Context*> stack;

struct Fault {
  std::string call;
  int nth = 0;
  int result = 0;
  int ordinal = -1;
  int seen = 0;
};
std::mutex faultsMutex;
std::vector<Fault>& faults() {
  static auto* const all = [] {
    auto* const list = new std::vector<Fault>();
    // "cuMemAlloc_v2:3=2,cuEventSynchronize:*=700"
    std::string text = setting("FAIL") == nullptr ? "" : setting("FAIL");
    while (!text.empty()) {
      const std::string item = text.substr(0, text.find(','));
      text.erase(0, item.size() + 1);
      const size_t colon = item.find(':');
      const size_t equals = item.find('=');
      if (colon == std::string::npos || equals == std::string::npos || equals < colon) continue;
      const std::string nth = item.substr(colon + 1, equals - colon - 1);
      list->push_back({item.substr(0, colon), nth == "*" ? 0 : std::atoi(nth.c_str()), std::atoi(item.c_str() + equals + 1), -1, 0});
    }
    return list;
  }();
  return *all;
}

}  // namespace

const char* setting(const char* name) { return std::getenv((std::string("KVFERRY_STAND_IN_CUDA_") + name).c_str()); }

uint64_t numberSetting(const char* name, uint64_t fallback) {
  const char* const text = setting(name);
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

int deviceCount() { return static_cast<int>(numberSetting("DEVICES", 2)); }

Context* currentContext() { return stack.empty() ? nullptr : stack.back(); }

bool isSticky(int result) {
  return result == 46 || result == 100 || result == 214 || result == 220 || result == 999 || (result >= 700 && result <= 721 && result != 701 &&
         result != 704 && result != 705 && result != 708 && result != 712 && result != 713 && result != 720);
}

int injected(const char* call, Context* context) {
  const std::lock_guard lock(faultsMutex);
  for (Fault& fault : faults()) {
    if (fault.call != call || (fault.ordinal >= 0 && (context == nullptr || context->ordinal != fault.ordinal))) continue;
    if (++fault.seen != fault.nth && fault.nth != 0) continue;
    if (context != nullptr && isSticky(fault.result)) context->sticky = fault.result;
    return fault.result;
  }
  return kSuccess;
}

int enter(const char* call, bool inContext) {
  if (!initialised) return kNotInitialized;
  Context* const context = currentContext();
  if (inContext && context == nullptr) return kInvalidContext;
  if (inContext && context->sticky != 0) return context->sticky;
  return injected(call, context);
}

Counters& counters() {
  static auto* const all = new Counters{};
  return *all;
}

}  // namespace stand_in

using namespace stand_in;

STAND_IN_EXPORT int cuInit(unsigned) {
  if (setting("FOLDER") == nullptr) return kNoDevice;
  if (const int result = injected("cuInit", nullptr)) return result;
  initialised = true;
  return kSuccess;
}

STAND_IN_EXPORT int cuDeviceGetCount(int* count) {
  if (const int result = enter("cuDeviceGetCount", false)) return result;
  *count = deviceCount();
  return kSuccess;
}

STAND_IN_EXPORT int cuDeviceGet(int* device, int ordinal) {
  if (const int result = enter("cuDeviceGet", false)) return result;
  if (ordinal < 0 || ordinal >= deviceCount()) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

STAND_IN_EXPORT int cuDeviceGetName(char* name, int bytes, int) {
  if (const int result = enter("cuDeviceGetName", false)) return result;
  std::snprintf(name, static_cast<size_t>(bytes), "kvferry stand-in, not a GPU");
  return kSuccess;
}

STAND_IN_EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) {
  if (const int result = enter("cuDeviceTotalMem_v2", false)) return result;
  *bytes = numberSetting("MEMORY_BYTES", uint64_t{1} << 30);
  return kSuccess;
}

STAND_IN_EXPORT int cuDeviceGetPCIBusId(char* id, int bytes, int device) {
  if (const int result = enter("cuDeviceGetPCIBusId", false)) return result;
  std::snprintf(id, static_cast<size_t>(bytes), "FFFF:FF:%02X.0", device);
  return kSuccess;
}

STAND_IN_EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  if (const int result = enter("cuDeviceGetAttribute", false)) return result;
  if (attribute == 11) {
    *value = 0x7fffffff;
  } else if (attribute == 91) {
    *value = static_cast<int>(numberSetting("HOST_POINTERS", 1));
  } else {
    return kInvalidValue;
  }
  return kSuccess;
}

STAND_IN_EXPORT int cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return enter("cuDevicePrimaryCtxSetFlags_v2", false); }

STAND_IN_EXPORT int cuDevicePrimaryCtxRetain(Context** context, int device) {
  if (const int result = enter("cuDevicePrimaryCtxRetain", false)) return result;
  if (device < 0 || device >= deviceCount()) return kInvalidDevice;
  const std::lock_guard lock(mutex);
  auto& slot = contexts()[device];
  if (!slot) {
    slot = std::make_unique<Context>();
    slot->ordinal = device;
  }
  if (slot->retained++ == 0) counters().contexts++;
  *context = slot.get();
  return kSuccess;
}

STAND_IN_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  if (const int result = enter("cuDevicePrimaryCtxRelease_v2", false)) return result;
  const std::lock_guard lock(mutex);
  const auto found = contexts().find(device);
  if (found == contexts().end() || found->second->retained == 0) return kInvalidContext;
  // The object stays: an address that is used too late must not be of something else.
  if (--found->second->retained == 0) counters().contexts--;
  return kSuccess;
}

STAND_IN_EXPORT int cuCtxPushCurrent_v2(Context* context) {
  if (const int result = enter("cuCtxPushCurrent_v2", false)) return result;
  if (context == nullptr) return kInvalidContext;
  stack.push_back(context);
  return kSuccess;
}

STAND_IN_EXPORT int cuCtxPopCurrent_v2(Context** context) {
  if (stack.empty()) return kInvalidContext;
  *context = stack.back();
  stack.pop_back();
  return kSuccess;
}

STAND_IN_EXPORT int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (const int result = enter("cuCtxGetStreamPriorityRange", true)) return result;
  *least = 0;
  *greatest = -5;
  return kSuccess;
}

STAND_IN_EXPORT int cuGetErrorName(int error, const char** name) {
  static const std::map<int, const char*> names = {
      {1, "CUDA_ERROR_INVALID_VALUE"},      {2, "CUDA_ERROR_OUT_OF_MEMORY"},   {100, "CUDA_ERROR_NO_DEVICE"},
      {201, "CUDA_ERROR_INVALID_CONTEXT"},  {205, "CUDA_ERROR_MAP_FAILED"},    {208, "CUDA_ERROR_ALREADY_MAPPED"},
      {214, "CUDA_ERROR_ECC_UNCORRECTABLE"}, {400, "CUDA_ERROR_INVALID_HANDLE"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {719, "CUDA_ERROR_LAUNCH_FAILED"},    {801, "CUDA_ERROR_NOT_SUPPORTED"}, {999, "CUDA_ERROR_UNKNOWN"},
  };
  const auto found = names.find(error);
  if (found == names.end()) return kInvalidValue;
  *name = found->second;
  return kSuccess;
}

STAND_IN_EXPORT int cuGetErrorString(int, const char** text) {
  *text = "said by kvferry's stand-in";
  return kSuccess;
}

STAND_IN_EXPORT void kvferryStandInCudaFail(const char* call, int nth, int result, int ordinal) {
  const std::lock_guard lock(faultsMutex);
  if (call == nullptr) {
    faults().clear();
  } else {
    faults().push_back({call, nth, result, ordinal, 0});
  }
}

STAND_IN_EXPORT void kvferryStandInCudaCounts(StandInCounts* counts) {
  const Counters& all = counters();
  *counts = {};
  counts->contexts = all.contexts;
  counts->streams = all.streams;
  counts->events = all.events;
  counts->allocations = all.allocations;
  counts->mappings = all.mappings;
  counts->copies = all.copies;
  counts->batches = all.batches;
  counts->copies2D = all.copies2D;
  countPinned(counts->pinnedRanges, counts->pinnedBytes);
  const FolderLock lock;
  counts->deviceBytes = usedBytes(-1);
}
