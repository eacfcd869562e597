#include "storage/layout.h"

#include <cstdio>
#include <cstring>

#include "storage/footer.h"

namespace kvferry {

char* writeHex(char* to, const uint8_t* bytes, size_t count) {
  static constexpr char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < count; i++) {
    *to++ = digits[bytes[i] >> 4];
    *to++ = digits[bytes[i] & 15];
  }
  *to = 0;
  return to;
}

BlockPath::BlockPath(Layout layout, const uint8_t* key, size_t keyBytes) {
  if (layout == Layout::Kvferry) {
    char* end = writeHex(file, key, 1);
    *end++ = '/';
    folderLength = 2;
    std::strcpy(writeHex(end, key, keyBytes), ".kvb");
    return;
  }
  const size_t hashBytes = keyBytes - 4;
  const uint8_t* group = key + hashBytes;
  const uint32_t number = uint32_t{group[0]} << 24 | uint32_t{group[1]} << 16 | uint32_t{group[2]} << 8 | group[3];
  // A hash of one or two bytes has fewer than five digits; Python's slices, which vLLM uses, are then shorter too.
  char hash[2 * kKeyBytesMax + 1];
  const auto digits = static_cast<size_t>(writeHex(hash, key, hashBytes) - hash);
  const int first = static_cast<int>(digits < 3 ? digits : 3);
  const int second = static_cast<int>(digits < 5 ? digits - first : 2);
  const int folder = std::snprintf(file, sizeof(file), "%.*s/%.*s_g%u", first, hash, second, hash + first, number);
  folderLength = static_cast<size_t>(folder);
  std::snprintf(file + folder, sizeof(file) - folderLength, "/%s.bin", hash);
}

size_t keyBytesMaxOf(Layout layout) { return layout == Layout::Kvferry ? 125 : kKeyBytesMax; }

}  // namespace kvferry
