#include "device/cuda/cuda_report.h"
#include "device/cuda/own_memory.h"
#include "napi/support.h"

namespace kvferry::binding {
namespace {

constexpr uint64_t kOwnBytesMax = uint64_t{1} << 30;

template <size_t Count>
Napi::Value arrayOf(Napi::Env env, const std::array<uint8_t, Count>& bytes) {
  Napi::Uint8Array array = Napi::Uint8Array::New(env, Count);
  std::copy(bytes.begin(), bytes.end(), array.Data());
  return array;
}

Napi::Value report(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    const CudaReport found = cudaReport();
    Napi::Array gpus = Napi::Array::New(env, found.gpus.size());
    for (uint32_t i = 0; i < found.gpus.size(); i++) {
      const CudaGpu& gpu = found.gpus[i];
      Napi::Object each = Napi::Object::New(env);
      each.Set("name", gpu.name);
      each.Set("uuid", arrayOf(env, gpu.uuid));
      each.Set("memoryBytes", static_cast<double>(gpu.memoryBytes));
      each.Set("pciBusId", gpu.pciBusId);
      if (gpu.numaNode >= 0) each.Set("numaNode", gpu.numaNode);
      each.Set("batchedCopies", gpu.batchedCopies);
      gpus.Set(i, each);
    }
    Napi::Object result = Napi::Object::New(env);
    result.Set("version", found.version);
    result.Set("gpus", gpus);
    return Napi::Value(result);
  });
}

/** (uuid, bytes). Its calls block: for processes that do nothing else. */
class OwnCudaMemoryObject : public Napi::ObjectWrap<OwnCudaMemoryObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "OwnCudaMemory",
                       {InstanceAccessor<&OwnCudaMemoryObject::handle>("handle"),
                        InstanceMethod<&OwnCudaMemoryObject::write>("write"),
                        InstanceMethod<&OwnCudaMemoryObject::read>("read"),
                        InstanceMethod<&OwnCudaMemoryObject::close>("close")});
  }

  explicit OwnCudaMemoryObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      std::array<uint8_t, 16> uuid{};
      const Bytes given = bytesOf(info[0], "uuid");
      if (given.length != uuid.size()) throw Error::ofField("uuid", "must have 16 bytes");
      std::copy_n(given.data, uuid.size(), uuid.begin());
      const uint64_t bytes = wholeNumber(info[1], "bytes", kOwnBytesMax);
      if (bytes == 0) throw Error::ofField("bytes", "must be positive");
      memory_ = std::make_unique<OwnCudaMemory>(uuid, bytes);
    });
  }

 private:
  OwnCudaMemory& memory() const {
    if (!memory_) throw Error(Code::Closed, "the memory is closed");
    return *memory_;
  }

  Napi::Value handle(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return arrayOf(info.Env(), memory().handle()); });
  }

  void write(const Napi::CallbackInfo& info) {
    guarded(info.Env(), [&] {
      const Bytes bytes = bytesOf(info[0], "bytes");
      if (bytes.length != memory().bytes()) throw Error::ofField("bytes", "must have as many bytes as the memory");
      memory().write(bytes.data);
    });
  }

  Napi::Value read(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      Napi::Uint8Array bytes = Napi::Uint8Array::New(info.Env(), memory().bytes());
      memory().read(bytes.Data());
      return Napi::Value(bytes);
    });
  }

  void close(const Napi::CallbackInfo&) { memory_.reset(); }

  std::unique_ptr<OwnCudaMemory> memory_;
};

}  // namespace

void exportCuda(Napi::Env env, Napi::Object exports) {
  exports.Set("cudaReport", Napi::Function::New(env, report));
  exports.Set("OwnCudaMemory", OwnCudaMemoryObject::define(env));
}

}  // namespace kvferry::binding
