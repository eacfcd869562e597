// SegmentDrive of types.ts: one object, two kinds of threads: a few for what blocks, others (or a ring) for transfers.
#include <algorithm>
#include <cstring>

#include "storage/segment_io.h"
#include "engine/ring_engine.h"
#include "napi/blocks.h"
#include "napi/engine_handle.h"
#include "napi/recover_batch.h"

namespace kvferry::binding {
namespace {

/** For what blocks: opening, beginning, sealing, recovering. */
constexpr uint32_t kControlThreads = 4;
constexpr uint32_t kTransferThreadsMin = 4;
constexpr uint32_t kTransferThreadsMax = 32;
/** Two, so that one computes while the other waits for the kernel. */
constexpr uint32_t kRings = 2;
constexpr uint32_t kQueueDepthMax = 65536;
constexpr uint32_t kTransfersMax = 4096;

/** One call that blocks and gives nothing back. */
class CallBatch final : public Batch {
 public:
  CallBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::function<void()> body)
      : Batch(Priority::Load, 1, std::move(engine), env), body_(std::move(body)) {}

  void run(uint32_t, ThreadState&) noexcept override {
    try {
      body_();
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    body_ = nullptr;
    if (skipped() != Code::None) throw Error(skipped(), "the drive did not begin the call");
    if (error_) throw Error(*error_);
    return env.Undefined();
  }

 private:
  std::function<void()> body_;
  std::unique_ptr<Error> error_;
};

class AppendBatch final : public Batch {
 public:
  AppendBatch(Priority priority, std::shared_ptr<EngineHandle> engine, Napi::Env env,
              std::unique_ptr<AppendOperation> operation)
      : Batch(priority, operation->units(), std::move(engine), env), operation_(std::move(operation)) {}

  IoOperation* io() noexcept override { return operation_.get(); }
  void run(uint32_t unit, ThreadState& state) noexcept override { runBlocking(*operation_, unit, state.transfer); }
  void skip(uint32_t unit, Code why) noexcept override { operation_->skip(unit, why); }
  void finish() noexcept override {
    outcome_ = operation_->finish();
    Batch::finish();
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    const std::unique_ptr<AppendOperation> operation = std::move(operation_);
    const std::vector<uint32_t>& sums = operation->checksums();
    Napi::Object result = resultOf(env, std::vector<BlockOutcome>(sums.size(), outcome_));
    Napi::Uint32Array checksums = Napi::Uint32Array::New(env, sums.size());
    std::copy(sums.begin(), sums.end(), checksums.Data());
    result.Set("checksums", checksums);
    return result;
  }

 private:
  std::unique_ptr<AppendOperation> operation_;
  BlockOutcome outcome_;
};

class ReadBatch final : public Batch {
 public:
  ReadBatch(Priority priority, std::shared_ptr<EngineHandle> engine, Napi::Env env,
            std::unique_ptr<ReadOperation> operation)
      : Batch(priority, operation->units(), std::move(engine), env), operation_(std::move(operation)) {}

  IoOperation* io() noexcept override { return operation_.get(); }
  void run(uint32_t unit, ThreadState& state) noexcept override { runBlocking(*operation_, unit, state.transfer); }
  void skip(uint32_t unit, Code why) noexcept override { operation_->skip(unit, why); }

 protected:
  Napi::Value result(Napi::Env env) override {
    const std::unique_ptr<ReadOperation> operation = std::move(operation_);
    return resultOf(env, operation->outcomes());
  }

 private:
  std::unique_ptr<ReadOperation> operation_;
};

Priority priorityOf(Napi::Object io, Priority usual) {
  const Napi::Value wanted = io.Get("priority");
  if (wanted.IsUndefined()) return usual;
  return text(wanted, "priority") == "load" ? Priority::Load : Priority::Store;
}

SegmentBlocks blocksOf(Napi::Object io) {
  SegmentBlocks blocks;
  const Bytes digest = bytesOf(io.Get("namespaceDigest"), "namespaceDigest");
  if (digest.length != kDigestBytes) throw Error(Code::InvalidArgument, "namespaceDigest must have 32 bytes");
  std::memcpy(blocks.shape.namespaceDigest.data(), digest.data, kDigestBytes);
  blocks.shape.keyBytes = static_cast<uint32_t>(wholeNumber(io.Get("keyBytes"), "keyBytes", kKeyBytesMax));
  blocks.shape.blockBytes = wholeNumber(io.Get("blockBytes"), "blockBytes", kWholeMax);
  checkShape(blocks.shape);
  const Bytes keys = bytesOf(io.Get("keys"), "keys");
  const uint32_t count = keyCount(keys, blocks.shape.keyBytes);
  blocks.keys.assign(keys.data, keys.data + keys.length);
  const uint32_t* const slots = numbersOf(io.Get("slots"), "slots", count);
  blocks.slots.assign(slots, slots + count);
  Rows rows = rowsOf(io.Get("memory"), io.Get("rowBytes"), blocks.shape.blockBytes, slots, count);
  blocks.memory = rows.memory;
  blocks.rowBytes = rows.rowBytes;
  blocks.region = std::move(rows.region);
  return blocks;
}

Life lifeOf(Napi::Value segment, Napi::Value epoch, Napi::Value sequence) {
  return {static_cast<uint32_t>(wholeNumber(segment, "segment", UINT32_MAX)), wholeNumber(epoch, "epoch", kWholeMax),
          wholeNumber(sequence, "sequence", kWholeMax)};
}

class DriveObject : public Napi::ObjectWrap<DriveObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "SegmentDrive",
        {InstanceAccessor<&DriveObject::engineName>("engine"), InstanceAccessor<&DriveObject::engineReason>("engineReason"),
         InstanceAccessor<&DriveObject::direct>("direct"), InstanceAccessor<&DriveObject::preallocated>("preallocated"),
         InstanceMethod<&DriveObject::begin>("begin"), InstanceMethod<&DriveObject::append>("append"),
         InstanceMethod<&DriveObject::read>("read"), InstanceMethod<&DriveObject::seal>("seal"),
         InstanceMethod<&DriveObject::recover>("recover"), InstanceMethod<&DriveObject::discard>("discard"),
         InstanceMethod<&DriveObject::counters>("counters"), InstanceMethod<&DriveObject::stats>("stats"),
         InstanceMethod<&DriveObject::cancel>("cancel"), InstanceMethod<&DriveObject::close>("close")});
  }

  explicit DriveObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  static Napi::Value make(Napi::Env env, std::shared_ptr<EngineHandle> handle, std::shared_ptr<SegmentDrive> drive,
                          const RingEngine* ring, std::string engineReason) {
    Napi::Object object = addonData(env).driveClass.New({});
    DriveObject* const self = Unwrap(object);
    self->handle_ = std::move(handle);
    self->ring_ = ring;
    self->direct_ = drive->file().direct();
    self->preallocated_ = drive->file().preallocated();
    self->engineReason_ = std::move(engineReason);
    self->drive_ = std::move(drive);
    return object;
  }

 private:
  const std::shared_ptr<SegmentDrive>& opened() const {
    if (!drive_) throw Error(Code::Closed, "the drive is closed");
    return drive_;
  }

  Napi::Value call(Napi::Env env, std::function<void()> body) {
    return std::make_shared<CallBatch>(handle_, env, std::move(body))->submit(0);
  }

  Napi::Value begin(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const Life life = lifeOf(info[0], info[1], info[2]);
      return call(info.Env(), [drive = opened(), life] { drive->begin(life); });
    });
  }

  Napi::Value seal(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const Life life = lifeOf(info[0], info[1], info[2]);
      return call(info.Env(), [drive = opened(), life] { drive->seal(life); });
    });
  }

  Napi::Value discard(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const auto segment = static_cast<uint32_t>(wholeNumber(info[0], "segment", UINT32_MAX));
      return call(info.Env(), [drive = opened(), segment] { drive->discard(segment); });
    });
  }

  Napi::Value append(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "append needs an object");
      const auto io = info[0].As<Napi::Object>();
      const Life life = lifeOf(io.Get("segment"), io.Get("epoch"), io.Get("sequence"));
      const uint64_t offset = wholeNumber(io.Get("offset"), "offset", kWholeMax);
      auto operation = std::make_unique<AppendOperation>(opened(), life, offset, blocksOf(io));
      const auto batch = std::make_shared<AppendBatch>(priorityOf(io, Priority::Store), handle_, info.Env(),
                                                       std::move(operation));
      batch->keep(io.Get("memory"));
      return batch->submit(ticketOf(info[1]));
    });
  }

  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "read needs an object");
      const auto io = info[0].As<Napi::Object>();
      SegmentBlocks blocks = blocksOf(io);
      const uint32_t count = blocks.count();
      const uint32_t* const offsets = numbersOf(io.Get("offsets4k"), "offsets4k", count);
      const uint32_t* const checksums = numbersOf(io.Get("checksums"), "checksums", count);
      auto operation = std::make_unique<ReadOperation>(opened(), std::move(blocks),
                                                       std::vector<uint32_t>(offsets, offsets + count),
                                                       std::vector<uint32_t>(checksums, checksums + count));
      const auto batch =
          std::make_shared<ReadBatch>(priorityOf(io, Priority::Load), handle_, info.Env(), std::move(operation));
      batch->keep(io.Get("memory"));
      return batch->submit(ticketOf(info[1]));
    });
  }

  Napi::Value recover(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return recoverDrive(info.Env(), handle_, opened()); });
  }

  Napi::Value counters(const Napi::CallbackInfo& info) {
    if (drive_) readCounters();
    Napi::Object result = Napi::Object::New(info.Env());
    for (const auto& [name, value] : counters_) result.Set(name, value);
    return result;
  }

  void readCounters() {
    const SegmentDriveCounters& now = drive_->counters();
    const auto number = [](const std::atomic<uint64_t>& value) {
      return static_cast<double>(value.load(std::memory_order_relaxed));
    };
    counters_ = {{"bytesWritten", number(now.bytesWritten)},     {"bytesRead", number(now.bytesRead)},
                 {"bytesStored", number(now.bytesStored)},       {"bytesLoaded", number(now.bytesLoaded)},
                 {"corruptBlocks", number(now.corruptBlocks)},   {"bytesDiscarded", number(now.bytesDiscarded)},
                 {"registeredBytes", ring_ == nullptr ? 0 : static_cast<double>(ring_->registeredBytes())}};
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    return statsOf(info.Env(), handle_->transfers->stats());
  }

  Napi::Value cancel(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      handle_->cancel(static_cast<uint32_t>(wholeNumber(info[0], "ticket", UINT32_MAX)),
                      static_cast<Code>(wholeNumber(info[1], "code", 255)));
      return info.Env().Undefined();
    });
  }

  /** The file is closed, and the lock gone, when the promise resolves: every batch has let go of the drive by then. */
  Napi::Value close(const Napi::CallbackInfo& info) {
    if (drive_) readCounters();
    const auto last = std::make_shared<std::shared_ptr<SegmentDrive>>(std::move(drive_));
    drive_.reset();
    return closeEngine(info.Env(), handle_, [last] { last->reset(); });
  }

  Napi::Value engineName(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), ring_ == nullptr ? "threads" : "io_uring");
  }
  Napi::Value engineReason(const Napi::CallbackInfo& info) {
    return engineReason_.empty() ? info.Env().Undefined() : Napi::String::New(info.Env(), engineReason_);
  }
  Napi::Value direct(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), direct_); }
  Napi::Value preallocated(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), preallocated_); }

  std::shared_ptr<EngineHandle> handle_;
  std::shared_ptr<SegmentDrive> drive_;
  /** The handle's transfers, if they are a ring's. */
  const RingEngine* ring_ = nullptr;
  std::string engineReason_;
  bool direct_ = false;
  bool preallocated_ = false;
  std::vector<std::pair<const char*, double>> counters_;
};

struct OpenOptions {
  DriveOptions drive;
  uint32_t queueDepth = 64;
  Direct ioUring = Direct::Auto;
};

class OpenBatch final : public Batch {
 public:
  OpenBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, OpenOptions options)
      : Batch(Priority::Load, 1, std::move(engine), env), options_(std::move(options)) {}

  void run(uint32_t, ThreadState&) noexcept override {
    try {
      drive_ = SegmentDrive::open(options_.drive);
      if (options_.ioUring != Direct::Off) openRing();
      if (ring_) return;
      const uint32_t threads = std::clamp(options_.queueDepth, kTransferThreadsMin, kTransferThreadsMax);
      threads_ = std::make_unique<Engine>(EngineOptions{threads, kQueueDepthMax});
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    const std::shared_ptr<SegmentDrive> drive = std::move(drive_);
    if (skipped() != Code::None) throw Error(skipped(), "the drive was not opened", 0, options_.drive.path);
    if (error_) throw Error(*error_);
    const RingEngine* const ring = ring_.get();
    engine()->transfers = ring_ ? std::unique_ptr<Executor>(std::move(ring_)) : std::move(threads_);
    return DriveObject::make(env, engine(), drive, ring, reason_);
  }

 private:
  /** Throws Error only where a ring must be had. */
  void openRing() {
    const DriveFile& file = drive_->file();
    const bool must = options_.ioUring == Direct::On;
    if (!must && !file.direct()) {
      reason_ = "O_DIRECT does not work here, or is off, and without it io_uring gains nothing";
      return;
    }
    try {
      ring_ = std::make_unique<RingEngine>(
          RingOptions{kRings, std::max(options_.queueDepth, kRings), kQueueDepthMax});
    } catch (const Error& error) {
      if (must) throw;
      reason_ = error.what();
    }
  }

  const OpenOptions options_;
  std::shared_ptr<SegmentDrive> drive_;
  std::unique_ptr<RingEngine> ring_;
  std::unique_ptr<Executor> threads_;
  std::string reason_;
  std::unique_ptr<Error> error_;
};

Napi::Value openSegmentDrive(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    if (!info[0].IsObject()) throw Error(Code::InvalidArgument, "openSegmentDrive needs an object");
    const auto object = info[0].As<Napi::Object>();
    OpenOptions options;
    options.drive.path = text(object.Get("path"), "path");
    options.drive.segmentBytes = wholeNumber(object.Get("segmentBytes"), "segmentBytes", kWholeMax);
    options.drive.segments = wholeNumber(object.Get("segments"), "segments", UINT32_MAX);
    options.drive.direct = static_cast<Direct>(choice(object.Get("direct"), "direct", {"auto", "on", "off"}));
    options.drive.discard = static_cast<Direct>(choice(object.Get("discard"), "discard", {"auto", "on", "off"}));
    options.drive.fileMode = static_cast<mode_t>(wholeNumber(object.Get("fileMode"), "fileMode", 07777));
    options.ioUring = static_cast<Direct>(choice(object.Get("ioUring"), "ioUring", {"auto", "on", "off"}));
    options.queueDepth = static_cast<uint32_t>(wholeNumber(object.Get("queueDepth"), "queueDepth", kTransfersMax));
    const auto handle = EngineHandle::make({kControlThreads, kQueueDepthMax}, addonData(info.Env()));
    return std::make_shared<OpenBatch>(handle, info.Env(), std::move(options))->submit(0);
  });
}

}  // namespace

Napi::Function defineDriveClass(Napi::Env env) { return DriveObject::define(env); }

void exportDrives(Napi::Env env, Napi::Object exports) {
  exports.Set("openSegmentDrive", Napi::Function::New(env, openSegmentDrive));
}

}  // namespace kvferry::binding
