#include "storage/file_features.h"
#include "napi/support.h"

namespace kvferry::binding {
namespace {

/** On a thread of libuv: whoever asks does nothing else meanwhile, and may have to be killed where the file system hangs. */
class FeaturesWorker final : public Napi::AsyncWorker {
 public:
  FeaturesWorker(Napi::Env env, std::string folder)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), folder_(std::move(folder)) {}

  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      features_ = tryFileFeatures(folder_);
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
      SetError(error.what());
    } catch (const std::exception& error) {
      SetError(error.what());
    }
  }

  void OnOK() override {
    const Napi::Env env = Env();
    Napi::Object codes = Napi::Object::New(env);
    codes.Set("exclusiveCreate", features_.exclusiveCreate);
    codes.Set("renameOver", features_.renameOver);
    codes.Set("hardLink", features_.hardLink);
    codes.Set("unnamedFile", features_.unnamedFile);
    codes.Set("userXattr", features_.userXattr);
    codes.Set("fallocate", features_.fallocate);
    codes.Set("punchHole", features_.punchHole);
    codes.Set("direct", features_.direct);
    Napi::Object result = Napi::Object::New(env);
    result.Set("errno", codes);
    result.Set("directAlignmentBytes", features_.directAlignmentBytes);
    result.Set("directTransferBytes", features_.directTransferBytes);
    result.Set("transferBytes", features_.transferBytes);
    result.Set("transferAskedBytes", kTransferAskedBytes);
    result.Set("timestampStepNs", static_cast<double>(features_.timestampStepNs));
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error& error) override {
    deferred_.Reject(error_ ? errorOf(Env(), *error_).Value() : error.Value());
  }

 private:
  const Napi::Promise::Deferred deferred_;
  const std::string folder_;
  FileFeatures features_;
  std::unique_ptr<Error> error_;
};

}  // namespace

void exportFeatures(Napi::Env env, Napi::Object exports) {
  exports.Set("tryFileFeatures", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return guarded(info.Env(), [&]() -> Napi::Value {
                  const std::string folder = text(info[0], "folder");
                  if (folder.empty() || folder[0] != '/' || folder.find('\0') != std::string::npos) {
                    throw Error(Code::InvalidArgument, "folder must be an absolute path: '" + folder + "'");
                  }
                  auto* const worker = new FeaturesWorker(info.Env(), folder);
                  worker->Queue();
                  return worker->promise();
                });
              }));
}

}  // namespace kvferry::binding
