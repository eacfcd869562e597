#include "napi/support.h"

#include <algorithm>
#include <cmath>

namespace kvferry::binding {

AddonData& addonData(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

Napi::Error errorOf(Napi::Env env, const Error& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  Napi::Object context = Napi::Object::New(env);
  if (!error.path.empty()) context.Set("path", error.path);
  if (!error.field.empty()) context.Set("field", error.field);
  if (error.error != 0) context.Set("errno", errnoName(error.error));
  result.Value().Set("code", codeName(error.code));
  result.Value().Set("context", context);
  return result;
}

Napi::Error errorOf(Napi::Env env, Code code, const std::string& message) {
  return errorOf(env, Error(code, message));
}

uint64_t wholeNumber(Napi::Value value, const char* name, uint64_t max) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(number >= 0) || number != std::floor(number) || number > static_cast<double>(max)) {
    throw Error::ofField(name, "must be a whole number from 0 to " + std::to_string(max));
  }
  return static_cast<uint64_t>(number);
}

std::string text(Napi::Value value, const char* name) {
  if (!value.IsString()) throw Error::ofField(name, "must be a string");
  return value.As<Napi::String>().Utf8Value();
}

size_t choice(Napi::Value value, const char* name, std::initializer_list<const char*> words) {
  const std::string word = text(value, name);
  const auto found = std::find(words.begin(), words.end(), word);
  if (found == words.end()) throw Error::ofField(name, "cannot be '" + word + "'");
  return static_cast<size_t>(found - words.begin());
}

Bytes bytesOf(Napi::Value value, const char* name) {
  if (value.IsTypedArray()) {
    napi_typedarray_type type;
    size_t length = 0;
    void* data = nullptr;
    const napi_status status =
        napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr);
    if (status == napi_ok && type == napi_uint8_array) return {static_cast<uint8_t*>(data), length};
  }
  throw Error::ofField(name, "must be a Uint8Array");
}

}  // namespace kvferry::binding
