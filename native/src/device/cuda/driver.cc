#include "device/cuda/driver.h"

#include <dlfcn.h>

#include <memory>
#include <mutex>

#include "common/codes.h"

namespace kvferry::cuda {
namespace {

Error noCuda(const std::string& why) { return Error(Code::Unsupported, "no CUDA: " + why); }

/** The symbol's address, or nullptr. */
template <typename Signature>
void look(void* library, const char* symbol, Signature*& call) {
  call = reinterpret_cast<Signature*>(dlsym(library, symbol));
}

std::unique_ptr<Driver> load() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    throw noCuda(std::string(why == nullptr ? "libcuda.so.1 cannot be loaded" : why) +
                 "; the NVIDIA driver brings it, and containers get it from the NVIDIA container toolkit");
  }
  auto driver = std::make_unique<Driver>();
  look(library, "cuDriverGetVersion", driver->driverGetVersion);
  if (driver->driverGetVersion != nullptr) driver->driverGetVersion(&driver->version);
#define KVFERRY_CUDA_LOOK(member, symbol, signature)                                                       \
  look(library, #symbol, driver->member);                                                                  \
  if (driver->member == nullptr) {                                                                         \
    throw noCuda("the driver (CUDA " + versionText(driver->version) + ") has no " #symbol                  \
                 "; install a newer one: 11.4 is the oldest that works");                                  \
  }
  KVFERRY_CUDA_CALLS(KVFERRY_CUDA_LOOK)
#undef KVFERRY_CUDA_LOOK
  look(library, "cuMemcpyBatchAsync_v2", driver->memcpyBatchAsync2);
  look(library, "cuMemcpyBatchAsync", driver->memcpyBatchAsync1);
  if (const Result result = driver->init(0)) throw noCuda("cuInit gave " + driver->textOf(result));
  return driver;
}

}  // namespace

std::string Driver::textOf(Result result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (getErrorName(result, &name) != kSuccess || name == nullptr) return "error " + std::to_string(result);
  std::string all = std::string(name) + " (" + std::to_string(result) + ")";
  if (getErrorString(result, &text) == kSuccess && text != nullptr) all += std::string(": ") + text;
  return all;
}

const Driver& driver() {
  static std::mutex mutex;
  static Driver* loaded = nullptr;  // never freed: threads of a process that is exiting may still call
  const std::lock_guard lock(mutex);
  if (loaded == nullptr) loaded = load().release();
  return *loaded;
}

std::string versionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace kvferry::cuda
