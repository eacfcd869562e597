// FolderCalls of types.ts: calls on paths that an engine's thread makes, so that only that thread hangs with the file system.
#include <cstring>

#include "storage/folder_calls.h"
#include "napi/blocks.h"
#include "napi/engine_handle.h"

namespace kvferry::binding {
namespace {

constexpr uint64_t kModeMax = 07777;

/** What a call does on a thread, and how JavaScript gets to know what it gave. Both own what they use. */
struct FolderCall {
  std::function<void()> body;
  std::function<Napi::Value(Napi::Env)> result = [](Napi::Env env) { return env.Undefined(); };
};

class FolderCallBatch final : public Batch {
 public:
  FolderCallBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::string name, FolderCall call)
      : Batch(Priority::Load, 1, std::move(engine), env), name_(std::move(name)), call_(std::move(call)) {}

  bool isAbandonable() const noexcept override { return true; }
  void run(uint32_t, ThreadState&) noexcept override {
    try {
      call_.body();
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    if (skipped() != Code::None) throw Error(skipped(), name_ + " was not finished");
    if (error_) throw Error(*error_);
    return call_.result(env);
  }

 private:
  const std::string name_;
  const FolderCall call_;
  std::unique_ptr<Error> error_;
};

FolderCall namesCall(std::string folder) {
  const auto names = std::make_shared<std::vector<std::string>>();
  return {[names, folder] { *names = namesIn(folder); },
          [names](Napi::Env env) -> Napi::Value {
            Napi::Array result = Napi::Array::New(env, names->size());
            for (uint32_t i = 0; i < names->size(); i++) {
              const Napi::HandleScope scope(env);
              result.Set(i, (*names)[i]);
            }
            return result;
          }};
}

FolderCall readCall(std::string path, uint64_t bytesMax) {
  const auto bytes = std::make_shared<std::vector<uint8_t>>();
  return {[=] { *bytes = readFile(path, bytesMax); },
          [bytes](Napi::Env env) -> Napi::Value {
            Napi::Uint8Array result = Napi::Uint8Array::New(env, bytes->size());
            if (!bytes->empty()) std::memcpy(result.Data(), bytes->data(), bytes->size());
            return result;
          }};
}

FolderCall factsCall(std::string path) {
  const auto facts = std::make_shared<PathFacts>();
  return {[=] { *facts = factsOf(path); },
          [facts](Napi::Env env) -> Napi::Value {
            Napi::Object result = Napi::Object::New(env);
            result.Set("bytes", facts->bytes);
            result.Set("modifiedAtMs", facts->modifiedAtMs);
            return result;
          }};
}

FolderCall fileSystemCall(std::string path) {
  const auto magic = std::make_shared<int64_t>(0);
  return {[=] { *magic = fileSystemOf(path); },
          [magic](Napi::Env env) -> Napi::Value {
            return Napi::Number::New(env, static_cast<double>(static_cast<uint32_t>(*magic)));
          }};
}

FolderCall callOf(const std::string& name, const Napi::CallbackInfo& info) {
  const std::string path = text(info[2], "path");
  if (path.find('\0') != std::string::npos) throw Error(Code::InvalidArgument, "a path holds a zero byte");
  const auto mode = [](Napi::Value value) { return static_cast<mode_t>(wholeNumber(value, "mode", kModeMax)); };
  if (name == "names") return namesCall(path);
  if (name == "read") return readCall(path, wholeNumber(info[3], "bytesMax", kWholeMax));
  if (name == "facts") return factsCall(path);
  if (name == "fileSystem") return fileSystemCall(path);
  if (name == "remove") return {[=] { removeTree(path); }};
  if (name == "makeFolders") {
    return {[path, bits = mode(info[3])] {
      if (const int made = makeFolders(systemIo(), path, bits); made < 0) {
        throw Error::ofErrno(-made, "make the folder", path);
      }
    }};
  }
  if (name == "rename") return {[path, to = text(info[3], "to")] { renamePath(path, to); }};
  if (name == "touch") {
    const auto ms = static_cast<double>(wholeNumber(info[3], "ms", kWholeMax));
    return {[=] { touchPath(path, ms); }};
  }
  if (name == "access") {
    const auto wanted = static_cast<int>(wholeNumber(info[3], "mode", 7));
    return {[=] { checkAccess(path, wanted); }};
  }
  if (name == "write") {
    const Bytes given = bytesOf(info[3], "bytes");
    const std::vector<uint8_t> bytes(given.data, given.data + given.length);
    const bool mustBeNew = info[5].ToBoolean();
    return {[path, bytes, mustBeNew, bits = mode(info[4])] { writeFile(path, bytes, mustBeNew, bits); }};
  }
  throw Error(Code::InvalidArgument, "there is no folder call '" + name + "'");
}

}  // namespace

Napi::Value folderCall(const std::shared_ptr<EngineHandle>& engine, const Napi::CallbackInfo& info) {
  const std::string name = text(info[0], "name");
  const uint32_t ticket = ticketOf(info[1]);
  return std::make_shared<FolderCallBatch>(engine, info.Env(), name, callOf(name, info))->submit(ticket);
}

}  // namespace kvferry::binding
