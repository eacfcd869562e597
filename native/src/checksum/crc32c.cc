#include "checksum/crc32c.h"

#include <array>
#include <atomic>
#include <bit>
#include <cstring>

namespace kvferry {
namespace checksum {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // 0x1EDC6F41 reflected

using Tables = std::array<std::array<uint32_t, 256>, 8>;

constexpr Tables makeTables() {
  Tables tables{};
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (uint32_t byte = 0; byte < 256; byte++) {
    for (size_t slice = 1; slice < 8; slice++) {
      const uint32_t before = tables[slice - 1][byte];
      tables[slice][byte] = (before >> 8) ^ tables[0][before & 0xff];
    }
  }
  return tables;
}

constexpr Tables kTables = makeTables();

/** A matrix over GF(2): column i is what bit i of a CRC becomes. */
using Matrix = std::array<uint32_t, 32>;

uint32_t multiply(const Matrix& matrix, uint32_t vector) {
  uint32_t sum = 0;
  for (size_t bit = 0; vector != 0; bit++, vector >>= 1) {
    if (vector & 1) sum ^= matrix[bit];
  }
  return sum;
}

Matrix multiply(const Matrix& left, const Matrix& right) {
  Matrix product;
  for (size_t bit = 0; bit < 32; bit++) product[bit] = multiply(left, right[bit]);
  return product;
}

}  // namespace

uint32_t portable(uint32_t crc, const uint8_t* data, size_t bytes) {
  crc = ~crc;
  if constexpr (std::endian::native == std::endian::little) {
    for (; bytes >= 8; bytes -= 8, data += 8) {
      uint64_t word;
      std::memcpy(&word, data, 8);
      word ^= crc;
      crc = kTables[7][word & 0xff] ^ kTables[6][(word >> 8) & 0xff] ^ kTables[5][(word >> 16) & 0xff] ^
            kTables[4][(word >> 24) & 0xff] ^ kTables[3][(word >> 32) & 0xff] ^ kTables[2][(word >> 40) & 0xff] ^
            kTables[1][(word >> 48) & 0xff] ^ kTables[0][word >> 56];
    }
  }
  for (; bytes > 0; bytes--) crc = (crc >> 8) ^ kTables[0][(crc ^ *data++) & 0xff];
  return ~crc;
}

ShiftTable::ShiftTable(size_t bytes) {
  // The matrix of one zero byte, raised to the power `bytes` by squaring.
  Matrix power;
  for (size_t bit = 0; bit < 32; bit++) {
    const uint32_t crc = uint32_t{1} << bit;
    power[bit] = (crc >> 8) ^ kTables[0][crc & 0xff];
  }
  Matrix result;
  for (size_t bit = 0; bit < 32; bit++) result[bit] = uint32_t{1} << bit;
  for (; bytes > 0; bytes >>= 1) {
    if (bytes & 1) result = multiply(power, result);
    power = multiply(power, power);
  }
  for (uint32_t byte = 0; byte < 256; byte++) {
    for (uint32_t place = 0; place < 4; place++) entries[place][byte] = multiply(result, byte << (8 * place));
  }
}

namespace {

Function best() {
  const Function function = hardware();
  return function != nullptr ? function : portable;
}

std::atomic<Function> chosen{nullptr};

Function choice() {
  Function function = chosen.load(std::memory_order_acquire);
  if (function == nullptr) {
    function = best();
    chosen.store(function, std::memory_order_release);
  }
  return function;
}

}  // namespace

void forcePortable(bool force) { chosen.store(force ? portable : best(), std::memory_order_release); }

}  // namespace checksum

uint32_t crc32c(const void* data, size_t bytes, uint32_t seed) {
  return checksum::choice()(seed, static_cast<const uint8_t*>(data), bytes);
}

const char* checksumImplementation() {
  if (checksum::choice() == checksum::portable) return "portable";
#if defined(__aarch64__)
  return "armv8-crc";
#else
  return "sse4.2";
#endif
}

}  // namespace kvferry
