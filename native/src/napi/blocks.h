// Blocks in JavaScript's memory: what all batches check of keys, slots and memory, and how they answer.
#pragma once

#include <vector>

#include "napi/support.h"
#include "region/region.h"

namespace kvferry::binding {

constexpr uint64_t kWholeMax = uint64_t{1} << 53;
constexpr uint32_t kBlocksPerBatchMax = 1u << 24;

/** Outcomes and codes as JavaScript gets them. */
Napi::Object resultOf(Napi::Env env, const std::vector<BlockOutcome>& blocks);

/** Keys of a batch, copied: JavaScript may reuse its buffer. */
class KeyBatch {
 public:
  KeyBatch(const Bytes& bytes, uint32_t keyBytes)
      : keyBytes_(keyBytes), bytes_(bytes.data, bytes.data + bytes.length) {}
  const uint8_t* operator[](uint32_t i) const { return bytes_.data() + size_t{i} * keyBytes_; }
  const uint8_t* data() const { return bytes_.data(); }

 private:
  const size_t keyBytes_;
  const std::vector<uint8_t> bytes_;
};

/** Throws Error INVALID_ARGUMENT when they are not packed. */
uint32_t keyCount(const Bytes& keys, uint32_t keyBytes);

/** Of a Uint32Array with `count` elements. Throws Error INVALID_ARGUMENT that names it. */
uint32_t* numbersOf(Napi::Value value, const char* name, uint32_t count);

/** How many elements a Uint32Array has. Throws Error INVALID_ARGUMENT that names it. */
uint32_t numbersLength(Napi::Value value, const char* name);

uint32_t ticketOf(Napi::Value value);

/** Rows of memory that JavaScript handed over, and the region they lie in, if any. */
struct Rows {
  uint8_t* memory = nullptr;
  uint64_t rowBytes = 0;
  std::shared_ptr<Region> region;
};

/** Throws Error INVALID_ARGUMENT when a slot's block would lie outside the memory. */
Rows rowsOf(Napi::Value memory, Napi::Value rowBytes, uint64_t blockBytes, const uint32_t* slots, uint32_t count);

}  // namespace kvferry::binding
