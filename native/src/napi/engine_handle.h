// The engine as JavaScript's side sees it.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/abandonable_engine.h"
#include "napi/support.h"

namespace kvferry::binding {

class Batch;

/** An engine, and the batches that may still be cancelled, by the number JavaScript gave them. Only the JavaScript thread
 * drops the last reference: the destructor waits for the threads. */
class EngineHandle {
 public:
  EngineHandle(std::unique_ptr<Executor> executor, bool abandons, const AddonData& addon)
      : engine(std::move(executor)), abandonable(abandons), completions(addon.completions), siblings_(addon.engines) {}
  ~EngineHandle() { siblings_->erase(this); }

  /** A handle that the environment ends with. */
  static std::shared_ptr<EngineHandle> make(const EngineOptions& options, AddonData& addon);
  /** With an AbandonableEngine. */
  static std::shared_ptr<EngineHandle> make(const EngineOptions& options, const AbandonOptions& abandon,
                                            AddonData& addon);

  Executor& executorOf(Work& work) { return transfers && work.io() != nullptr ? *transfers : *engine; }
  /** As `Executor::close` and `join`, of all threads. */
  void close(std::function<void()> done);
  bool join(uint32_t timeoutMs);
  /** Ends what has not begun of the batch with this ticket, if there is one. */
  void cancel(uint32_t ticket, Code why);

  const std::unique_ptr<Executor> engine;
  /** Whether batches must be ready to be given up while they run. */
  const bool abandonable;
  /** Does the batches that are transfers, where they are not to wait behind others. */
  std::unique_ptr<Executor> transfers;
  const std::shared_ptr<Completions> completions;
  std::unordered_map<uint32_t, std::shared_ptr<Batch>> tickets;

 private:
  static std::shared_ptr<EngineHandle> known(std::shared_ptr<EngineHandle> handle, AddonData& addon);

  const std::shared_ptr<Engines> siblings_;
};

/** Work whose end settles a promise. Its N-API handles are used on the JavaScript thread only. */
class Batch : public Work, public Completion, public std::enable_shared_from_this<Batch> {
 public:
  Batch(Priority priority, uint32_t units, std::shared_ptr<EngineHandle> engine, Napi::Env env)
      : Work(priority, units),
        engine_(std::move(engine)),
        completions_(engine_->completions),
        deferred_(Napi::Promise::Deferred::New(env)) {}

  /** Puts the batch into the engine's queue; one that is refused is settled at once. `ticket` 0: cannot be cancelled. */
  Napi::Value submit(uint32_t ticket);

  void skip(uint32_t, Code why) noexcept override { skipped_ = why; }
  void abandon(Code why) noexcept override { skipped_ = why; }
  void finish() noexcept override { completions_->push(shared_from_this()); }
  void settle(Napi::Env env) override;

  /** Keeps a JavaScript value (the caller's memory) alive until the end. */
  napi_ref keep(Napi::Value value);

 protected:
  /** The promise's value. Throws Napi::Error or Error to reject it. */
  virtual Napi::Value result(Napi::Env env) = 0;
  static Napi::Value kept(Napi::Env env, napi_ref reference);
  /** Why a unit was skipped or abandoned, None if none was. After an abandonment what `run` writes must not be read. */
  Code skipped() const { return skipped_; }
  const std::shared_ptr<EngineHandle>& engine() const { return engine_; }

 private:
  std::shared_ptr<EngineHandle> engine_;
  std::shared_ptr<Completions> completions_;
  Napi::Promise::Deferred deferred_;
  std::vector<napi_ref> kept_;
  uint32_t ticket_ = 0;
  Code skipped_ = Code::None;
};

/** Submits a BlockCopy of types.ts. */
Napi::Value copyBlocks(const std::shared_ptr<EngineHandle>& engine, Napi::Object copy, uint32_t ticket);

/** A promise that resolves when all threads have ended; `last` is called before that. */
Napi::Value closeEngine(Napi::Env env, const std::shared_ptr<EngineHandle>& engine, std::function<void()> last);

/** Makes a promise of a FileStore object: opening does I/O, so a thread of the engine does it. */
Napi::Value openStore(const std::shared_ptr<EngineHandle>& engine, Napi::Object options, uint32_t ticket);
/** (name, ticket, …): one of `FolderCalls` of types.ts. */
Napi::Value folderCall(const std::shared_ptr<EngineHandle>& engine, const Napi::CallbackInfo& info);
/** Makes a promise of a Device object: (OpenDeviceOptions of types.ts). */
Napi::Value openDevice(const std::shared_ptr<EngineHandle>& engine, Napi::Object options);
Napi::Function defineDeviceClass(Napi::Env env);
Napi::Function defineStoreClass(Napi::Env env);
Napi::Function defineDriveClass(Napi::Env env);
void exportDrives(Napi::Env env, Napi::Object exports);

/** { threads, queuedLoads, … } of types.ts. */
Napi::Object statsOf(Napi::Env env, const EngineStats& stats);

}  // namespace kvferry::binding
