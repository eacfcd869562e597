#include <sys/syscall.h>
#include <unistd.h>

#include "napi/blocks.h"
#include "napi/engine_handle.h"

namespace kvferry::binding {
namespace {

/** A process that exits waits so long for I/O under way; the kernel ends what hangs after that. */
constexpr uint32_t kExitWaitMs = 2000;

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "FileEngine",
        {InstanceMethod<&EngineObject::openStore>("openStore"), InstanceMethod<&EngineObject::copyBlocks>("copyBlocks"),
         InstanceMethod<&EngineObject::openDevice>("openDevice"),
         InstanceMethod<&EngineObject::folderCall>("folderCall"), InstanceMethod<&EngineObject::stats>("stats"),
         InstanceMethod<&EngineObject::cancel>("cancel"), InstanceMethod<&EngineObject::close>("close")});
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      EngineOptions options;
      options.threads = static_cast<uint32_t>(wholeNumber(info[0], "threads", 1024));
      options.queueDepthMax = static_cast<uint32_t>(wholeNumber(info[1], "queueDepthMax", INT32_MAX));
      if (!info[2].IsObject()) {
        handle_ = EngineHandle::make(options, addonData(info.Env()));
        return;
      }
      const auto given = info[2].As<Napi::Object>();
      AbandonOptions abandon;
      abandon.stuckAfterMs = static_cast<uint32_t>(wholeNumber(given.Get("stuckAfterMs"), "stuckAfterMs", INT32_MAX));
      abandon.stuckThreadsMax = static_cast<uint32_t>(wholeNumber(given.Get("stuckThreadsMax"), "stuckThreadsMax", 1024));
      handle_ = EngineHandle::make(options, abandon, addonData(info.Env()));
    });
  }

 private:
  Napi::Value openStore(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "options must be an object");
      return binding::openStore(handle_, info[0].As<Napi::Object>(), ticketOf(info[1]));
    });
  }

  Napi::Value folderCall(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return binding::folderCall(handle_, info); });
  }

  Napi::Value copyBlocks(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "copyBlocks needs an object");
      return binding::copyBlocks(handle_, info[0].As<Napi::Object>(), ticketOf(info[1]));
    });
  }

  Napi::Value openDevice(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error::ofField("options", "must be an object");
      return binding::openDevice(handle_, info[0].As<Napi::Object>());
    });
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    return statsOf(info.Env(), handle_->engine->stats());
  }

  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const auto ticket = static_cast<uint32_t>(wholeNumber(info[0], "ticket", UINT32_MAX));
      const auto code = static_cast<Code>(wholeNumber(info[1], "code", 255));
      handle_->cancel(ticket, code);
      return info.Env().Undefined();
    });
  }

  Napi::Value close(const Napi::CallbackInfo& info) { return closeEngine(info.Env(), handle_, nullptr); }

  std::shared_ptr<EngineHandle> handle_;
};

/** Pushed by the last thread. */
class EngineEnd : public Completion {
 public:
  EngineEnd(Napi::Env env, std::shared_ptr<EngineHandle> handle, std::function<void()> last)
      : handle_(std::move(handle)), last_(std::move(last)), deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Value promise() const { return deferred_.Promise(); }
  void settle(Napi::Env env) override {
    handle_->join(0);
    if (last_) last_();
    handle_.reset();
    deferred_.Resolve(env.Undefined());
  }

 private:
  std::shared_ptr<EngineHandle> handle_;
  std::function<void()> last_;
  Napi::Promise::Deferred deferred_;
};

}  // namespace

std::shared_ptr<EngineHandle> EngineHandle::make(const EngineOptions& options, AddonData& addon) {
  return known(std::make_shared<EngineHandle>(std::make_unique<Engine>(options), false, addon), addon);
}

std::shared_ptr<EngineHandle> EngineHandle::make(const EngineOptions& options, const AbandonOptions& abandon,
                                                 AddonData& addon) {
  auto engine = std::make_unique<AbandonableEngine>(options, abandon);
  return known(std::make_shared<EngineHandle>(std::move(engine), true, addon), addon);
}

std::shared_ptr<EngineHandle> EngineHandle::known(std::shared_ptr<EngineHandle> handle, AddonData& addon) {
  addon.engines->emplace(handle.get(), handle);
  return handle;
}

void EngineHandle::close(std::function<void()> done) {
  if (!transfers) return engine->close(std::move(done));
  const auto left = std::make_shared<std::atomic<int>>(2);
  const auto each = [left, done = std::move(done)] {
    if (--*left == 0 && done) done();
  };
  transfers->close(each);
  engine->close(each);
}

bool EngineHandle::join(uint32_t timeoutMs) {
  const bool transfersEnded = !transfers || transfers->join(timeoutMs);
  return engine->join(timeoutMs) && transfersEnded;
}

void EngineHandle::cancel(uint32_t ticket, Code why) {
  const auto found = tickets.find(ticket);
  if (found != tickets.end()) executorOf(*found->second).cancel(found->second.get(), why);
}

Napi::Object statsOf(Napi::Env env, const EngineStats& stats) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("threads", stats.threads);
  result.Set("queuedLoads", stats.queuedLoads);
  result.Set("queuedStores", stats.queuedStores);
  result.Set("running", stats.running);
  result.Set("stuckThreads", stats.stuckThreads);
  return result;
}

Napi::Value closeEngine(Napi::Env env, const std::shared_ptr<EngineHandle>& engine, std::function<void()> last) {
  const auto end = std::make_shared<EngineEnd>(env, engine, std::move(last));
  const std::shared_ptr<Completions>& completions = engine->completions;
  completions->begin();
  engine->close([completions, end] { completions->push(end); });
  return end->promise();
}

Napi::Value Batch::submit(uint32_t ticket) {
  const Napi::Promise promise = deferred_.Promise();
  completions_->begin();
  ticket_ = ticket;
  if (ticket != 0) engine_->tickets.emplace(ticket, shared_from_this());
  const Submitted submitted = engine_->executorOf(*this).submit(shared_from_this());
  if (submitted != Submitted::Accepted) {
    const Code why = submitted == Submitted::Busy     ? Code::Busy
                     : submitted == Submitted::Closed ? Code::Closed
                                                      : Code::Unavailable;
    for (uint32_t unit = 0; unit < units; unit++) skip(unit, why);
    skipped_ = why;
    finish();
  }
  return promise;
}

napi_ref Batch::keep(Napi::Value value) {
  napi_ref reference;
  if (napi_create_reference(value.Env(), value, 1, &reference) != napi_ok) throw Napi::Error::New(value.Env());
  kept_.push_back(reference);
  return reference;
}

Napi::Value Batch::kept(Napi::Env env, napi_ref reference) {
  napi_value value;
  if (napi_get_reference_value(env, reference, &value) != napi_ok) throw Napi::Error::New(env);
  return Napi::Value(env, value);
}

void Batch::settle(Napi::Env env) {
  // The thread that ran the last unit may still hold this batch; it must not be the one to let go of the engine.
  const std::shared_ptr<EngineHandle> engine = engine_;
  if (ticket_ != 0) engine->tickets.erase(ticket_);
  try {
    deferred_.Resolve(result(env));
  } catch (const Error& error) {
    deferred_.Reject(errorOf(env, error).Value());
  } catch (const Napi::Error& error) {
    deferred_.Reject(error.Value());
  } catch (const std::bad_alloc&) {
    deferred_.Reject(errorOf(env, Code::Internal, "out of memory").Value());
  }
  for (napi_ref reference : kept_) napi_delete_reference(env, reference);
  kept_.clear();
  engine_.reset();
}

void exportEngine(Napi::Env env, Napi::Object exports) {
  AddonData& addon = addonData(env);
  addon.engineClass = Napi::Persistent(EngineObject::define(env));
  addon.storeClass = Napi::Persistent(defineStoreClass(env));
  addon.deviceClass = Napi::Persistent(defineDeviceClass(env));
  addon.driveClass = Napi::Persistent(defineDriveClass(env));
  exportDrives(env, exports);
  exports.Set("FileEngine", addon.engineClass.Value());
}

void endEngines(AddonData& data) {
  const bool mainThread = syscall(SYS_gettid) == getpid();
  std::vector<std::shared_ptr<EngineHandle>> engines;
  for (const auto& [raw, weak] : *data.engines) {
    if (auto engine = weak.lock()) engines.push_back(std::move(engine));
  }
  for (const auto& engine : engines) engine->close(nullptr);
  for (auto& engine : engines) {
    if (engine->join(mainThread ? kExitWaitMs : 0)) continue;
    // Its threads still use it, and there is nobody left to free it after them.
    new std::shared_ptr<EngineHandle>(engine);
  }
}

}  // namespace kvferry::binding
