#include "napi/blocks.h"

namespace kvferry::binding {

Napi::Object resultOf(Napi::Env env, const std::vector<BlockOutcome>& blocks) {
  Napi::Uint8Array outcomes = Napi::Uint8Array::New(env, blocks.size());
  Napi::Uint8Array codes = Napi::Uint8Array::New(env, blocks.size());
  uint8_t* const outcome = outcomes.Data();
  uint8_t* const code = codes.Data();
  for (size_t i = 0; i < blocks.size(); i++) {
    outcome[i] = static_cast<uint8_t>(blocks[i].outcome);
    code[i] = static_cast<uint8_t>(blocks[i].code);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("outcomes", outcomes);
  result.Set("codes", codes);
  return result;
}

uint32_t keyCount(const Bytes& keys, uint32_t keyBytes) {
  if (keys.length % keyBytes != 0 || keys.length / keyBytes > kBlocksPerBatchMax) {
    throw Error(Code::InvalidArgument, "keys must be packed, " + std::to_string(keyBytes) + " bytes each");
  }
  return static_cast<uint32_t>(keys.length / keyBytes);
}

namespace {

struct Numbers {
  uint32_t* data = nullptr;
  size_t length = 0;
};

Numbers numbers(Napi::Value value, const char* name) {
  napi_typedarray_type type = napi_uint8_array;
  Numbers result;
  void* data = nullptr;
  const bool is = value.IsTypedArray() && napi_get_typedarray_info(value.Env(), value, &type, &result.length, &data,
                                                                   nullptr, nullptr) == napi_ok;
  if (!is || type != napi_uint32_array) {
    throw Error::ofField(name, "must be a Uint32Array");
  }
  result.data = static_cast<uint32_t*>(data);
  return result;
}

}  // namespace

uint32_t* numbersOf(Napi::Value value, const char* name, uint32_t count) {
  const Numbers found = numbers(value, name);
  if (found.length != count) {
    throw Error::ofField(name, "must have " + std::to_string(count) + " elements");
  }
  return found.data;
}

uint32_t numbersLength(Napi::Value value, const char* name) {
  const Numbers found = numbers(value, name);
  if (found.length > kBlocksPerBatchMax) {
    throw Error::ofField(name, "has too many elements for one batch");
  }
  return static_cast<uint32_t>(found.length);
}

uint32_t ticketOf(Napi::Value value) {
  return value.IsUndefined() ? 0 : static_cast<uint32_t>(wholeNumber(value, "ticket", UINT32_MAX));
}

Rows rowsOf(Napi::Value memoryValue, Napi::Value rowBytesValue, uint64_t blockBytes, const uint32_t* slots,
            uint32_t count) {
  const Bytes memory = bytesOf(memoryValue, "memory");
  const uint64_t rowBytes = wholeNumber(rowBytesValue, "rowBytes", kWholeMax);
  if (rowBytes < blockBytes) throw Error(Code::InvalidArgument, "rowBytes is less than the block's bytes");
  Rows rows{memory.data, rowBytes, Region::find(memory.data, memory.length == 0 ? 1 : memory.length)};
  const uint64_t extent = extentOf(memoryValue.Env(), memory, rows.region.get());
  for (uint32_t i = 0; i < count; i++) {
    if (extent < blockBytes || slots[i] > (extent - blockBytes) / rowBytes) {
      throw Error(Code::InvalidArgument, "slot " + std::to_string(slots[i]) + " lies outside the memory");
    }
  }
  return rows;
}

}  // namespace kvferry::binding
