// What all files of the binding need: errors, options, typed arrays, and the state of one JavaScript environment.
#pragma once

#include <napi.h>
#include <uv.h>

#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "common/codes.h"
#include "napi/completions.h"

namespace kvferry {
class Region;
}

namespace kvferry::binding {

class EngineHandle;

/** The engines of an environment. Shared, because finalizers may run after AddonData is gone. */
using Engines = std::unordered_map<EngineHandle*, std::weak_ptr<EngineHandle>>;

/** A uv_poll_t with somewhere to report to; outlives its owner until libuv lets it go. */
class Poll;

constexpr size_t kReceiveBufferBytes = 256 * 1024;

/** State of one environment (the main thread's, or one worker's). */
struct AddonData {
  explicit AddonData(Napi::Env env);

  std::shared_ptr<Completions> completions;
  std::shared_ptr<Engines> engines;
  /** Those that libuv has not let go of yet. */
  std::unordered_set<Poll*> polls;
  uv_loop_t* loop = nullptr;
  napi_async_cleanup_hook_handle cleanupHook = nullptr;
  bool ending = false;
  Napi::FunctionReference regionClass;
  Napi::FunctionReference engineClass;
  Napi::FunctionReference storeClass;
  Napi::FunctionReference driveClass;
  Napi::FunctionReference deviceClass;
  Napi::FunctionReference connectionClass;
  Napi::FunctionReference serverClass;
  /** Where sockets are read into before the bytes are copied to an array of their size. */
  std::unique_ptr<uint8_t[]> receiveBuffer;
};

AddonData& addonData(Napi::Env env);

/** Copies shared by all threads of an environment's exports. */
void exportChecksum(Napi::Env env, Napi::Object exports);
void exportRegions(Napi::Env env, Napi::Object exports);
void exportEngine(Napi::Env env, Napi::Object exports);
void exportSockets(Napi::Env env, Napi::Object exports);
void exportFeatures(Napi::Env env, Napi::Object exports);
void exportCuda(Napi::Env env, Napi::Object exports);

/** Ends the threads of all engines; waits without limit in a worker, whose memory is about to be freed. */
void endEngines(AddonData& data);
/** Closes all sockets without calling JavaScript. */
void endSockets(AddonData& data);

/** An Error with `code` and `context`, as types.ts promises. */
Napi::Error errorOf(Napi::Env env, const Error& error);
Napi::Error errorOf(Napi::Env env, Code code, const std::string& message);

/** Runs `body`; what it throws reaches JavaScript as an Error with a code. */
template <typename Body>
auto guarded(Napi::Env env, Body body) -> decltype(body()) {
  try {
    return body();
  } catch (const Error& error) {
    throw errorOf(env, error);
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw errorOf(env, Code::Internal, "out of memory");
  }
}

/** A whole number from 0 to `max`. Throws Error INVALID_ARGUMENT that names it. */
uint64_t wholeNumber(Napi::Value value, const char* name, uint64_t max);
std::string text(Napi::Value value, const char* name);
/** One of a few words; its place in the list. Throws Error INVALID_ARGUMENT. */
size_t choice(Napi::Value value, const char* name, std::initializer_list<const char*> words);

struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};
/** Of a Uint8Array. Throws Error INVALID_ARGUMENT. */
Bytes bytesOf(Napi::Value value, const char* name);

/** Of a MappedRegion. Throws Error INVALID_ARGUMENT for anything else, and for a closed one. */
std::shared_ptr<Region> regionOf(Napi::Value value, const std::string& name);
/** Bytes that `memory` stands for: the longest view that Node 20 has of `region` (that it lies in, or nullptr) stands for all of that. */
uint64_t extentOf(Napi::Env env, const Bytes& memory, const Region* region);

}  // namespace kvferry::binding
