#include <algorithm>
#include <cstring>

#include "storage/file_store.h"
#include "storage/owned_blocks.h"
#include "napi/blocks.h"
#include "napi/engine_handle.h"
#include "napi/folders.h"

namespace kvferry::binding {
namespace {

/** Keys that a thread looks up at a time: about as long as moving a small block takes. */
constexpr uint32_t kLookupsPerUnit = 256;

/** A store or load: one unit a block. */
class BlockBatch final : public Batch {
 public:
  BlockBatch(Priority priority, uint32_t count, std::shared_ptr<EngineHandle> engine, Napi::Env env,
             std::shared_ptr<FileStore> store, const Bytes& keys, const uint32_t* slots, bool load, Rows rows)
      : Batch(priority, count, std::move(engine), env),
        store_(std::move(store)),
        keys_(keys, store_->options().facts.keyBytes),
        slots_(slots, slots + count),
        load_(load),
        rows_(std::move(rows)),
        blocks_(count) {}

  void run(uint32_t unit, ThreadState& state) noexcept override {
    uint8_t* const payload = rows_.memory + slots_[unit] * rows_.rowBytes;
    Region* const region = rows_.region.get();
    try {
      blocks_[unit] = load_ ? store_->load(keys_[unit], payload, region, state)
                                     : store_->store(keys_[unit], payload, region, state);
    } catch (...) {
      blocks_[unit] = failed(Code::Internal);  // out of memory
    }
  }
  void skip(uint32_t unit, Code why) noexcept override { blocks_[unit] = failed(why); }

 protected:
  Napi::Value result(Napi::Env env) override {
    rows_.region.reset();
    return resultOf(env, blocks_);
  }

 private:
  const std::shared_ptr<FileStore> store_;
  const KeyBatch keys_;
  const std::vector<uint32_t> slots_;
  const bool load_;
  Rows rows_;
  std::vector<BlockOutcome> blocks_;
};

/** As BlockBatch, in an engine whose batches can be given up. */
class OwnedBlockBatch final : public Batch {
 public:
  OwnedBlockBatch(Priority priority, uint32_t count, std::shared_ptr<EngineHandle> engine, Napi::Env env,
                  std::shared_ptr<FileStore> store, const Bytes& keys, const uint32_t* slots, bool load, Rows rows)
      : Batch(priority, count, std::move(engine), env),
        keys_(keys, store->options().facts.keyBytes),
        slots_(slots, slots + count),
        memory_(rows.memory),
        rowBytes_(rows.rowBytes),
        region_(rows.region.get()),
        held_(std::move(rows.region)),
        blocks_(std::move(store), load, count) {}

  void run(uint32_t unit, ThreadState& state) noexcept override {
    blocks_.run(unit, keys_[unit], memory_ + slots_[unit] * rowBytes_, region_, state);
  }
  void skip(uint32_t unit, Code why) noexcept override { blocks_.skip(unit, why); }
  bool isAbandonable() const noexcept override { return true; }
  void abandon(Code why) noexcept override { blocks_.abandon(why); }

 protected:
  Napi::Value result(Napi::Env env) override {
    held_.reset();
    return resultOf(env, blocks_.outcomes());
  }

 private:
  const KeyBatch keys_;
  const std::vector<uint32_t> slots_;
  uint8_t* const memory_;
  const uint64_t rowBytes_;
  Region* const region_;
  /** Only until the promise settles: threads that are left behind do not keep the region. */
  std::shared_ptr<Region> held_;
  OwnedBlocks blocks_;
};

class RemoveBatch final : public Batch {
 public:
  RemoveBatch(uint32_t count, std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<FileStore> store,
              const Bytes& keys)
      : Batch(Priority::Store, count, std::move(engine), env),
        store_(std::move(store)),
        keys_(keys, store_->options().facts.keyBytes),
        claims_(count),
        blocks_(count) {}

  void run(uint32_t unit, ThreadState&) noexcept override {
    const BlockOutcome outcome = store_->remove(keys_[unit]);
    if (!claims_.enter(unit)) return;
    blocks_[unit] = outcome;
    claims_.end(unit);
  }
  void skip(uint32_t unit, Code why) noexcept override { blocks_[unit] = failed(why); }
  bool isAbandonable() const noexcept override { return true; }
  void abandon(Code why) noexcept override {
    claims_.abandon([&](uint32_t unit) { blocks_[unit] = failed(why); });
  }

 protected:
  Napi::Value result(Napi::Env env) override { return resultOf(env, blocks_); }

 private:
  const std::shared_ptr<FileStore> store_;
  const KeyBatch keys_;
  Claims claims_;
  std::vector<BlockOutcome> blocks_;
};

class ExistsBatch final : public Batch {
 public:
  ExistsBatch(uint32_t count, std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<FileStore> store,
              const Bytes& keys)
      : Batch(Priority::Load, (count + kLookupsPerUnit - 1) / kLookupsPerUnit, std::move(engine), env),
        store_(std::move(store)),
        keys_(keys, store_->options().facts.keyBytes),
        found_(count) {}

  void run(uint32_t unit, ThreadState&) noexcept override {
    const uint32_t end = std::min<uint32_t>(static_cast<uint32_t>(found_.size()), (unit + 1) * kLookupsPerUnit);
    for (uint32_t i = unit * kLookupsPerUnit; i < end; i++) found_[i] = static_cast<uint8_t>(store_->presenceOf(keys_[i]));
  }
  bool isAbandonable() const noexcept override { return true; }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (skipped() != Code::None) throw Error(skipped(), "exists was not finished");
    Napi::Uint8Array found = Napi::Uint8Array::New(env, found_.size());
    if (!found_.empty()) std::memcpy(found.Data(), found_.data(), found_.size());
    return found;
  }

 private:
  const std::shared_ptr<FileStore> store_;
  const KeyBatch keys_;
  std::vector<uint8_t> found_;
};

class ListBatch final : public Batch {
 public:
  ListBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<FileStore> store, std::string folder)
      : Batch(Priority::Store, 1, std::move(engine), env), store_(std::move(store)), folder_(std::move(folder)) {}

  bool isAbandonable() const noexcept override { return true; }
  void run(uint32_t, ThreadState&) noexcept override {
    try {
      listing_ = store_->list(folder_);
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (skipped() != Code::None) throw Error(skipped(), "listFolder was not finished", 0, folder_);
    if (error_) throw Error(*error_);
    const auto count = static_cast<uint32_t>(listing_.names.size());
    Napi::Array names = Napi::Array::New(env, count);
    Napi::Float64Array bytes = Napi::Float64Array::New(env, count);
    Napi::Float64Array times = Napi::Float64Array::New(env, count);
    for (uint32_t i = 0; i < count; i++) {
      const Napi::HandleScope scope(env);
      names.Set(i, listing_.names[i]);
      bytes[i] = listing_.bytes[i];
      times[i] = listing_.modifiedAtMs[i];
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("names", names);
    result.Set("bytes", bytes);
    result.Set("modifiedAtMs", times);
    return result;
  }

 private:
  const std::shared_ptr<FileStore> store_;
  const std::string folder_;
  FolderListing listing_;
  std::unique_ptr<Error> error_;
};

class StoreObject : public Napi::ObjectWrap<StoreObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "FileStore",
        {InstanceAccessor<&StoreObject::direct>("direct"), InstanceAccessor<&StoreObject::publish>("publish"),
         InstanceMethod<&StoreObject::transfer>("transfer"), InstanceMethod<&StoreObject::exists>("exists"),
         InstanceMethod<&StoreObject::listFolder>("listFolder"), InstanceMethod<&StoreObject::remove>("remove"),
         InstanceMethod<&StoreObject::stampFolders>("stampFolders"), InstanceMethod<&StoreObject::keysIn>("keysIn"),
         InstanceMethod<&StoreObject::counters>("counters"), InstanceMethod<&StoreObject::close>("close")});
  }

  explicit StoreObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  static Napi::Value make(Napi::Env env, std::shared_ptr<EngineHandle> engine, std::shared_ptr<FileStore> store) {
    Napi::Object object = addonData(env).storeClass.New({});
    StoreObject* const self = Unwrap(object);
    self->engine_ = std::move(engine);
    self->direct_ = store->direct();
    self->publish_ = store->publish();
    self->store_ = std::move(store);
    return object;
  }

 private:
  FileStore& opened() const {
    if (!store_) throw Error(Code::Closed, "the file store is closed");
    return *store_;
  }

  /** (load, keys, memory, rowBytes, slots, priority, ticket) */
  Napi::Value transfer(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const FooterFacts& facts = opened().options().facts;
      const Bytes keys = bytesOf(info[1], "keys");
      const uint32_t count = keyCount(keys, facts.keyBytes);
      const uint32_t* const slots = numbersOf(info[4], "slots", count);
      Rows rows = rowsOf(info[2], info[3], facts.blockBytes, slots, count);
      const Priority priority = text(info[5], "priority") == "load" ? Priority::Load : Priority::Store;
      const auto start = [&]<typename Kind>(std::shared_ptr<Kind> batch) {
        batch->keep(info[2]);
        return batch->submit(ticketOf(info[6]));
      };
      const bool load = info[0].ToBoolean();
      if (engine_->abandonable) {
        return start(std::make_shared<OwnedBlockBatch>(priority, count, engine_, info.Env(), store_, keys, slots, load,
                                                       std::move(rows)));
      }
      return start(std::make_shared<BlockBatch>(priority, count, engine_, info.Env(), store_, keys, slots, load,
                                                std::move(rows)));
    });
  }

  Napi::Value exists(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const Bytes keys = bytesOf(info[0], "keys");
      const uint32_t count = keyCount(keys, opened().options().facts.keyBytes);
      return std::make_shared<ExistsBatch>(count, engine_, info.Env(), store_, keys)->submit(ticketOf(info[1]));
    });
  }

  Napi::Value remove(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      const Bytes keys = bytesOf(info[0], "keys");
      const uint32_t count = keyCount(keys, opened().options().facts.keyBytes);
      return std::make_shared<RemoveBatch>(count, engine_, info.Env(), store_, keys)->submit(ticketOf(info[1]));
    });
  }

  Napi::Value listFolder(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      opened();
      return std::make_shared<ListBatch>(engine_, info.Env(), store_, text(info[0], "folder"))
          ->submit(ticketOf(info[1]));
    });
  }

  Napi::Value stampFolders(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      opened();
      return binding::stampFolders(engine_, store_, info);
    });
  }

  Napi::Value keysIn(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      opened();
      return binding::keysIn(engine_, store_, info);
    });
  }

  Napi::Value counters(const Napi::CallbackInfo& info) {
    if (store_) read(store_->counters());
    Napi::Object result = Napi::Object::New(info.Env());
    result.Set("bytesStored", static_cast<double>(bytesStored_));
    result.Set("bytesLoaded", static_cast<double>(bytesLoaded_));
    result.Set("adopted", static_cast<double>(adopted_));
    result.Set("quarantined", static_cast<double>(quarantined_));
    return result;
  }

  void read(const FileStoreCounters& counters) {
    bytesStored_ = counters.bytesStored.load(std::memory_order_relaxed);
    bytesLoaded_ = counters.bytesLoaded.load(std::memory_order_relaxed);
    adopted_ = counters.adopted.load(std::memory_order_relaxed);
    quarantined_ = counters.quarantined.load(std::memory_order_relaxed);
  }

  /** Batches under way hold the store; the last of them releases the descriptors. */
  Napi::Value close(const Napi::CallbackInfo& info) {
    if (store_) read(store_->counters());
    store_.reset();
    return info.Env().Undefined();
  }

  Napi::Value direct(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), direct_); }
  Napi::Value publish(const Napi::CallbackInfo& info) {
    return Napi::String::New(info.Env(), publish_ == Publish::Link ? "link" : "rename");
  }

  std::shared_ptr<EngineHandle> engine_;
  std::shared_ptr<FileStore> store_;
  bool direct_ = false;
  Publish publish_ = Publish::Rename;
  uint64_t bytesStored_ = 0;
  uint64_t bytesLoaded_ = 0;
  uint64_t adopted_ = 0;
  uint64_t quarantined_ = 0;
};

class OpenBatch final : public Batch {
 public:
  OpenBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, FileStoreOptions options)
      : Batch(Priority::Load, 1, std::move(engine), env), options_(std::move(options)) {}

  bool isAbandonable() const noexcept override { return true; }
  void run(uint32_t, ThreadState&) noexcept override {
    try {
      store_ = FileStore::open(options_);
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (skipped() != Code::None) throw Error(skipped(), "the engine did not open the store", 0, options_.blocksFolder);
    if (error_) throw Error(*error_);
    return StoreObject::make(env, engine(), std::move(store_));
  }

 private:
  const FileStoreOptions options_;
  std::shared_ptr<FileStore> store_;
  std::unique_ptr<Error> error_;
};

FileStoreOptions optionsOf(Napi::Object object) {
  FileStoreOptions options;
  options.blocksFolder = text(object.Get("blocksFolder"), "blocksFolder");
  options.tmpFolder = text(object.Get("tmpFolder"), "tmpFolder");
  options.quarantineFolder = text(object.Get("quarantineFolder"), "quarantineFolder");
  options.quarantineFilesMax =
      static_cast<uint32_t>(wholeNumber(object.Get("quarantineFilesMax"), "quarantineFilesMax", 1'000'000));
  options.layout = static_cast<Layout>(choice(object.Get("layout"), "layout", {"kvferry", "vllm-fs"}));
  const Bytes digest = bytesOf(object.Get("namespaceDigest"), "namespaceDigest");
  if (digest.length != kDigestBytes) throw Error(Code::InvalidArgument, "namespaceDigest must have 32 bytes");
  std::memcpy(options.facts.namespaceDigest.data(), digest.data, kDigestBytes);
  options.facts.writer = text(object.Get("writer"), "writer");
  options.facts.keyBytes = static_cast<uint32_t>(wholeNumber(object.Get("keyBytes"), "keyBytes", kKeyBytesMax));
  options.facts.blockBytes = wholeNumber(object.Get("blockBytes"), "blockBytes", kWholeMax);
  options.fileMode = static_cast<mode_t>(wholeNumber(object.Get("fileMode"), "fileMode", 07777));
  options.folderMode = static_cast<mode_t>(wholeNumber(object.Get("folderMode"), "folderMode", 07777));
  options.fsync = object.Get("fsync").ToBoolean();
  options.adopt = object.Get("adopt").ToBoolean();
  options.direct = static_cast<Direct>(choice(object.Get("direct"), "direct", {"auto", "on", "off"}));
  options.publish = static_cast<Publish>(choice(object.Get("publish"), "publish", {"auto", "link", "rename"}));
  return options;
}

}  // namespace

Napi::Value openStore(const std::shared_ptr<EngineHandle>& engine, Napi::Object options, uint32_t ticket) {
  return std::make_shared<OpenBatch>(engine, options.Env(), optionsOf(options))->submit(ticket);
}

Napi::Function defineStoreClass(Napi::Env env) { return StoreObject::define(env); }

}  // namespace kvferry::binding
