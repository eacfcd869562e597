#include <algorithm>
#include <cstring>

#include "storage/folder_look.h"
#include "napi/folders.h"

namespace kvferry::binding {
namespace {

/** A round trip each: few, so that many threads share them. */
constexpr uint32_t kFoldersPerUnit = 8;
/** Numbers that JavaScript gets of a folder: those of FolderStamp, in its order. */
constexpr uint32_t kStampNumbers = 6;

class StampBatch final : public Batch {
 public:
  StampBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<FileStore> store,
             std::vector<std::string> folders, bool touch)
      : Batch(Priority::Load, static_cast<uint32_t>((folders.size() + kFoldersPerUnit - 1) / kFoldersPerUnit),
              std::move(engine), env),
        store_(std::move(store)),
        folders_(std::move(folders)),
        touch_(touch),
        stamps_(folders_.size()) {}

  bool isAbandonable() const noexcept override { return true; }
  void run(uint32_t unit, ThreadState&) noexcept override {
    const size_t end = std::min<size_t>(folders_.size(), size_t{unit + 1} * kFoldersPerUnit);
    for (size_t i = size_t{unit} * kFoldersPerUnit; i < end; i++) {
      stamps_[i] = stampFolder(store_->blocksFolder(), folders_[i], touch_);
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (skipped() != Code::None) throw Error(skipped(), "stampFolders was not finished");
    Napi::BigInt64Array numbers = Napi::BigInt64Array::New(env, stamps_.size() * kStampNumbers);
    int64_t* to = numbers.Data();
    for (const FolderStamp& stamp : stamps_) {
      *to++ = stamp.error;
      *to++ = stamp.changedNs;
      *to++ = stamp.modifiedNs;
      *to++ = static_cast<int64_t>(stamp.bytes);
      *to++ = static_cast<int64_t>(stamp.links);
      *to++ = stamp.missing;
    }
    return numbers;
  }

 private:
  const std::shared_ptr<FileStore> store_;
  const std::vector<std::string> folders_;
  const bool touch_;
  std::vector<FolderStamp> stamps_;
};

class KeysBatch final : public Batch {
 public:
  KeysBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<FileStore> store, std::string folder)
      : Batch(Priority::Load, 1, std::move(engine), env), store_(std::move(store)), folder_(std::move(folder)) {}

  bool isAbandonable() const noexcept override { return true; }
  void run(uint32_t, ThreadState&) noexcept override {
    try {
      keys_ = keysInFolder(store_->blocksFolder(), folder_, store_->options().facts.keyBytes);
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (skipped() != Code::None) throw Error(skipped(), "keysIn was not finished", 0, folder_);
    if (error_) throw Error(*error_);
    Napi::Uint8Array keys = Napi::Uint8Array::New(env, keys_.size());
    if (!keys_.empty()) std::memcpy(keys.Data(), keys_.data(), keys_.size());
    return keys;
  }

 private:
  const std::shared_ptr<FileStore> store_;
  const std::string folder_;
  std::vector<uint8_t> keys_;
  std::unique_ptr<Error> error_;
};

}  // namespace

Napi::Value stampFolders(const std::shared_ptr<EngineHandle>& engine, const std::shared_ptr<FileStore>& store,
                         const Napi::CallbackInfo& info) {
  if (!info[0].IsArray()) throw Error(Code::InvalidArgument, "folders must be an array");
  const Napi::Array array = info[0].As<Napi::Array>();
  std::vector<std::string> folders;
  folders.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) folders.push_back(text(array.Get(i), "folder"));
  const auto batch =
      std::make_shared<StampBatch>(engine, info.Env(), store, std::move(folders), info[1].ToBoolean().Value());
  return batch->submit(ticketOf(info[2]));
}

Napi::Value keysIn(const std::shared_ptr<EngineHandle>& engine, const std::shared_ptr<FileStore>& store,
                   const Napi::CallbackInfo& info) {
  const auto batch = std::make_shared<KeysBatch>(engine, info.Env(), store, text(info[0], "folder"));
  return batch->submit(ticketOf(info[1]));
}

}  // namespace kvferry::binding
