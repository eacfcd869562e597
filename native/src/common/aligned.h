// Page-aligned memory, as O_DIRECT wants it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace kvferry {

constexpr size_t kPageBytes = 4096;

constexpr uint64_t roundUpToPage(uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

inline bool isPageAligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % kPageBytes == 0; }

/** Grows on demand and never shrinks; contents do not survive growth. */
class AlignedBuffer {
 public:
  /** At least `bytes` bytes. Throws std::bad_alloc. */
  uint8_t* reserve(size_t bytes) {
    if (bytes > capacity_) {
      memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(kPageBytes, roundUpToPage(bytes))));
      capacity_ = memory_ ? roundUpToPage(bytes) : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace kvferry
