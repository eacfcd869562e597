// Entry point. Everything that belongs to one environment hangs on AddonData and ends with it, before V8 frees memory.
#include <unistd.h>

#include <chrono>
#include <thread>

#include "checksum/crc32c.h"
#include "napi/support.h"

namespace kvferry::binding {
namespace {

void onEnvironmentEnd(void* data) {
  auto& addon = *static_cast<AddonData*>(data);
  addon.ending = true;
  endEngines(addon);
  addon.completions->end();
}

/** Sockets need the loop to turn once more before they are gone: an asynchronous hook makes Node do that. */
void onSocketsEnd(napi_async_cleanup_hook_handle handle, void* data) {
  auto& addon = *static_cast<AddonData*>(data);
  addon.cleanupHook = handle;
  addon.ending = true;
  endSockets(addon);
}

Napi::Object start(Napi::Env env, Napi::Object exports) {
  auto* const data = new AddonData(env);
  env.SetInstanceData<AddonData>(data);
  // Hooks run last in, first out: ours before the one of the thread-safe function that the engines use.
  if (napi_add_env_cleanup_hook(env, onEnvironmentEnd, data) != napi_ok ||
      napi_add_async_cleanup_hook(env, onSocketsEnd, data, nullptr) != napi_ok) {
    throw Napi::Error::New(env);
  }
  exportChecksum(env, exports);
  exportRegions(env, exports);
  exportEngine(env, exports);
  exportSockets(env, exports);
  exportFeatures(env, exports);
  exportCuda(env, exports);
  return exports;
}

}  // namespace

AddonData::AddonData(Napi::Env env)
    : completions(Completions::make(env)),
      engines(std::make_shared<Engines>()),
      receiveBuffer(new uint8_t[kReceiveBufferBytes]) {
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) throw Napi::Error::New(env);
}

/** Checksums, and the end of the process. */
void exportChecksum(Napi::Env env, Napi::Object exports) {
  exports.Set("crc32c", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return guarded(info.Env(), [&] {
                  const Bytes bytes = bytesOf(info[0], "bytes");
                  const auto seed = info[1].IsUndefined() ? 0 : wholeNumber(info[1], "seed", UINT32_MAX);
                  return Napi::Number::New(info.Env(), crc32c(bytes.data, bytes.length, static_cast<uint32_t>(seed)));
                });
              }));
  exports.Set("exitWithin", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                guarded(info.Env(), [&] {
                  const auto ms = static_cast<uint32_t>(wholeNumber(info[0], "ms", UINT32_MAX));
                  const auto code = static_cast<int>(wholeNumber(info[1], "code", 255));
                  std::thread([ms, code] {
                    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
                    _exit(code);
                  }).detach();
                });
              }));
  exports.Set("checksumImplementation", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::String::New(info.Env(), checksumImplementation());
              }));
}

}  // namespace kvferry::binding

static Napi::Object init(Napi::Env env, Napi::Object exports) { return kvferry::binding::start(env, exports); }

NODE_API_MODULE(kvferry, init)
