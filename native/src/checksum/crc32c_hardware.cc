// CRC-32C by the CRC instructions of x86-64 (SSE4.2) and ARMv8. An instruction takes three cycles but one starts every
// cycle, so three streams run side by side and are joined by multiplying with x^n (a table look-up).
#include "checksum/crc32c.h"

#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#if defined(__clang__)
#define KVFERRY_CRC_TARGET __attribute__((target("sse4.2,crc32")))
#else
#define KVFERRY_CRC_TARGET __attribute__((target("sse4.2")))
#endif
#elif defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#if defined(__clang__)
#define KVFERRY_CRC_TARGET __attribute__((target("crc")))
#else
#define KVFERRY_CRC_TARGET __attribute__((target("+crc")))
#endif
#endif

namespace kvferry::checksum {

#if defined(KVFERRY_CRC_TARGET)
namespace {

#if defined(__x86_64__)
KVFERRY_CRC_TARGET inline uint64_t step8(uint64_t crc, uint64_t word) { return _mm_crc32_u64(crc, word); }
KVFERRY_CRC_TARGET inline uint64_t step1(uint64_t crc, uint8_t byte) {
  return _mm_crc32_u8(static_cast<uint32_t>(crc), byte);
}
bool supported() { return __builtin_cpu_supports("sse4.2") != 0; }
#else
// The instructions by name, because arm_acle.h declares the intrinsics only when the whole file is compiled for them.
KVFERRY_CRC_TARGET inline uint64_t step8(uint64_t crc, uint64_t word) {
  uint32_t result;
  __asm__("crc32cx %w0, %w1, %x2" : "=r"(result) : "r"(static_cast<uint32_t>(crc)), "r"(word));
  return result;
}
KVFERRY_CRC_TARGET inline uint64_t step1(uint64_t crc, uint8_t byte) {
  uint32_t result;
  __asm__("crc32cb %w0, %w1, %w2" : "=r"(result) : "r"(static_cast<uint32_t>(crc)), "r"(static_cast<uint32_t>(byte)));
  return result;
}
bool supported() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif

constexpr size_t kLongBytes = 8192;
constexpr size_t kShortBytes = 256;

inline uint64_t wordAt(const uint8_t* data) {
  uint64_t word;
  std::memcpy(&word, data, 8);
  return word;
}

/** Consumes 3 × stream bytes as often as they are there. */
template <size_t kStreamBytes>
KVFERRY_CRC_TARGET inline uint64_t threeStreams(uint64_t crc, const uint8_t*& data, size_t& bytes,
                                                const ShiftTable& shift) {
  while (bytes >= 3 * kStreamBytes) {
    uint64_t second = 0;
    uint64_t third = 0;
    const uint8_t* const end = data + kStreamBytes;
    for (; data < end; data += 8) {
      crc = step8(crc, wordAt(data));
      second = step8(second, wordAt(data + kStreamBytes));
      third = step8(third, wordAt(data + 2 * kStreamBytes));
    }
    crc = shift(static_cast<uint32_t>(crc)) ^ second;
    crc = shift(static_cast<uint32_t>(crc)) ^ third;
    data += 2 * kStreamBytes;
    bytes -= 3 * kStreamBytes;
  }
  return crc;
}

KVFERRY_CRC_TARGET uint32_t interleaved(uint32_t seed, const uint8_t* data, size_t bytes) {
  static const ShiftTable shiftLong(kLongBytes);
  static const ShiftTable shiftShort(kShortBytes);
  uint64_t crc = static_cast<uint32_t>(~seed);
  for (; bytes > 0 && reinterpret_cast<uintptr_t>(data) % 8 != 0; bytes--) crc = step1(crc, *data++);
  crc = threeStreams<kLongBytes>(crc, data, bytes, shiftLong);
  crc = threeStreams<kShortBytes>(crc, data, bytes, shiftShort);
  for (; bytes >= 8; bytes -= 8, data += 8) crc = step8(crc, wordAt(data));
  for (; bytes > 0; bytes--) crc = step1(crc, *data++);
  return ~static_cast<uint32_t>(crc);
}

}  // namespace

Function hardware() { return supported() ? interleaved : nullptr; }

#else

Function hardware() { return nullptr; }

#endif

}  // namespace kvferry::checksum
