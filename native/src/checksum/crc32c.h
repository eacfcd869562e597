// CRC-32C (Castagnoli), the payload and footer checksum of docs/block-format.md.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvferry {

/** The CRC-32C of `bytes` bytes; `seed` is the CRC of what came before them, 0 at the start. Picks the fastest
 * implementation of this machine at the first call. */
uint32_t crc32c(const void* data, size_t bytes, uint32_t seed = 0);

/** "sse4.2", "armv8-crc" or "portable". */
const char* checksumImplementation();

namespace checksum {

using Function = uint32_t (*)(uint32_t crc, const uint8_t* data, size_t bytes);

/** Slicing by 8; runs anywhere. Like the others it takes and gives the CRC with the final XOR applied. */
uint32_t portable(uint32_t crc, const uint8_t* data, size_t bytes);

/** The hardware implementation of this machine, or nullptr. */
Function hardware();

/** For tests: all later checksums by the portable code, or by the best again. */
void forcePortable(bool portable);

/** Multiplies a CRC by x^(8 × bytes): what the CRC becomes when `bytes` zero bytes follow. Four tables of 256 entries. */
struct ShiftTable {
  uint32_t entries[4][256];

  explicit ShiftTable(size_t bytes);

  uint32_t operator()(uint32_t crc) const {
    return entries[0][crc & 0xff] ^ entries[1][(crc >> 8) & 0xff] ^ entries[2][(crc >> 16) & 0xff] ^
           entries[3][crc >> 24];
  }
};

}  // namespace checksum
}  // namespace kvferry
