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
         InstanceMethod<&EngineObject::stats>("stats"),
         InstanceMethod<&EngineObject::cancel>("cancel"), InstanceMethod<&EngineObject::close>("close")});
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      EngineOptions options;
      options.threads = static_cast<uint32_t>(wholeNumber(info[0], "threads", 1024));
      options.queueDepthMax = static_cast<uint32_t>(wholeNumber(info[1], "queueDepthMax", INT32_MAX));
      AddonData& addon = addonData(info.Env());
      handle_ = std::make_shared<EngineHandle>(options, addon);
      addon.engines->emplace(handle_.get(), handle_);
    });
  }

 private:
  Napi::Value openStore(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "options must be an object");
      return binding::openStore(handle_, info[0].As<Napi::Object>());
    });
  }

  Napi::Value copyBlocks(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "copyBlocks needs an object");
      return binding::copyBlocks(handle_, info[0].As<Napi::Object>(), ticketOf(info[1]));
    });
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    const EngineStats stats = handle_->engine.stats();
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("threads", stats.threads);
    result.Set("queuedLoads", stats.queuedLoads);
    result.Set("queuedStores", stats.queuedStores);
    result.Set("running", stats.running);
    return result;
  }

  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const auto ticket = static_cast<uint32_t>(wholeNumber(info[0], "ticket", UINT32_MAX));
      const auto code = static_cast<Code>(wholeNumber(info[1], "code", 255));
      const auto found = handle_->tickets.find(ticket);
      if (found != handle_->tickets.end()) handle_->engine.cancel(found->second.get(), code);
      return info.Env().Undefined();
    });
  }

  Napi::Value close(const Napi::CallbackInfo& info);

  std::shared_ptr<EngineHandle> handle_;
};

/** Pushed by the last thread. */
class EngineEnd : public Completion {
 public:
  EngineEnd(Napi::Env env, std::shared_ptr<EngineHandle> handle)
      : handle_(std::move(handle)), deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Value promise() const { return deferred_.Promise(); }
  void settle(Napi::Env env) override {
    handle_->engine.join(0);
    handle_.reset();
    deferred_.Resolve(env.Undefined());
  }

 private:
  std::shared_ptr<EngineHandle> handle_;
  Napi::Promise::Deferred deferred_;
};

Napi::Value EngineObject::close(const Napi::CallbackInfo& info) {
  const auto end = std::make_shared<EngineEnd>(info.Env(), handle_);
  const std::shared_ptr<Completions>& completions = handle_->completions;
  completions->begin();
  handle_->engine.close([completions, end] { completions->push(end); });
  return end->promise();
}

}  // namespace

Napi::Value Batch::submit(uint32_t ticket) {
  const Napi::Promise promise = deferred_.Promise();
  completions_->begin();
  ticket_ = ticket;
  if (ticket != 0) engine_->tickets.emplace(ticket, shared_from_this());
  const Submitted submitted = engine_->engine.submit(shared_from_this());
  if (submitted != Submitted::Accepted) {
    const Code why = submitted == Submitted::Busy ? Code::Busy : Code::Closed;
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
  exports.Set("FileEngine", addon.engineClass.Value());
}

void endEngines(AddonData& data) {
  const bool mainThread = syscall(SYS_gettid) == getpid();
  std::vector<std::shared_ptr<EngineHandle>> engines;
  for (const auto& [raw, weak] : *data.engines) {
    if (auto engine = weak.lock()) engines.push_back(std::move(engine));
  }
  for (const auto& engine : engines) engine->engine.close(nullptr);
  for (auto& engine : engines) {
    if (engine->engine.join(mainThread ? kExitWaitMs : 0)) continue;
    // Its threads still use it, and there is nobody left to free it after them.
    new std::shared_ptr<EngineHandle>(engine);
  }
}

}  // namespace kvferry::binding
