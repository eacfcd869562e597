#include "region/copy.h"

#include <algorithm>
#include <cstring>

#include "checksum/crc32c.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace kvferry {
namespace {

#if defined(__x86_64__)
/** Past the cache: a block's copy is not read again soon, and lines that are written whole need not be fetched before. */
void copyPiece(uint8_t* to, const uint8_t* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % sizeof(__m128i) != 0) {
    std::memmove(to, from, bytes);
    return;
  }
  const size_t streamed = bytes / 64 * 64;
  for (size_t at = 0; at < streamed; at += 64) {
    const auto* const source = reinterpret_cast<const __m128i*>(from + at);
    auto* const target = reinterpret_cast<__m128i*>(to + at);
    const __m128i first = _mm_loadu_si128(source);
    const __m128i second = _mm_loadu_si128(source + 1);
    const __m128i third = _mm_loadu_si128(source + 2);
    const __m128i fourth = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, first);
    _mm_stream_si128(target + 1, second);
    _mm_stream_si128(target + 2, third);
    _mm_stream_si128(target + 3, fourth);
  }
  std::memmove(to + streamed, from + streamed, bytes - streamed);
}

/** Streamed bytes are where others see them before anything that follows. */
void copied() { _mm_sfence(); }
#else
void copyPiece(uint8_t* to, const uint8_t* from, size_t bytes) { std::memmove(to, from, bytes); }
void copied() {}
#endif

}  // namespace

uint32_t copyWithChecksum(const uint8_t* from, uint8_t* to, size_t bytes) {
  uint32_t checksum = 0;
  while (bytes > 0) {
    const size_t piece = std::min(bytes, kCopyPieceBytes);
    if (to != from) copyPiece(to, from, piece);
    // After the copy, while the source is in the cache: a source that is given to another block meanwhile does not verify.
    checksum = crc32c(from, piece, checksum);
    from += piece;
    to += piece;
    bytes -= piece;
  }
  copied();
  return checksum;
}

BlockOutcome copyBlock(const CopySide& from, uint32_t fromSlot, const CopySide& to, uint32_t toSlot, size_t bytes,
                       bool verify, uint32_t& checksum) {
  if (from.gone() || to.gone()) return failed(Code::RegionGone);
  const uint32_t found = copyWithChecksum(from.row(fromSlot), to.row(toSlot), bytes);
  // A page that was taken away was read as zeros, or written to a page that nobody else has.
  if (from.gone() || to.gone()) return failed(Code::RegionGone);
  if (!verify) {
    checksum = found;
    return {Outcome::Stored, Code::None};
  }
  if (checksum != found) return {Outcome::Corrupt, Code::Corrupt};
  return {Outcome::Loaded, Code::None};
}

}  // namespace kvferry
