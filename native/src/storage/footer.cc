#include "storage/footer.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checksum/crc32c.h"

static_assert(std::endian::native == std::endian::little, "the format is little-endian and so are all our platforms");

namespace kvferry {
namespace {

constexpr uint8_t kMagic[8] = {0x4b, 0x56, 0x46, 0x45, 0x52, 0x52, 0x59, 0x01};
constexpr uint32_t kFormatVersion = 1;
constexpr uint16_t kCodecPlain = 0;
constexpr uint16_t kChecksumCrc32c = 1;

constexpr size_t kVersionAt = 8;
constexpr size_t kFooterBytesAt = 12;
constexpr size_t kPayloadBytesAt = 16;
constexpr size_t kCodecAt = 24;
constexpr size_t kChecksumKindAt = 26;
constexpr size_t kKeyBytesAt = 28;
constexpr size_t kPayloadChecksumAt = 32;
constexpr size_t kStoredAtMsAt = 40;
constexpr size_t kDigestAt = 48;
constexpr size_t kKeyAt = 80;
constexpr size_t kWriterAt = 208;
constexpr size_t kFooterChecksumAt = 4092;

template <typename Number>
void put(uint8_t* footer, size_t at, Number value) {
  std::memcpy(footer + at, &value, sizeof(value));
}

template <typename Number>
Number get(const uint8_t* footer, size_t at) {
  Number value;
  std::memcpy(&value, footer + at, sizeof(value));
  return value;
}

}  // namespace

void writeFooter(uint8_t* footer, const FooterFacts& facts, const uint8_t* key, uint32_t payloadChecksum,
                 uint64_t storedAtMs) {
  std::memset(footer, 0, kFooterBytes);
  std::memcpy(footer, kMagic, sizeof(kMagic));
  put(footer, kVersionAt, kFormatVersion);
  put(footer, kFooterBytesAt, static_cast<uint32_t>(kFooterBytes));
  put(footer, kPayloadBytesAt, facts.blockBytes);
  put(footer, kCodecAt, kCodecPlain);
  put(footer, kChecksumKindAt, kChecksumCrc32c);
  put(footer, kKeyBytesAt, facts.keyBytes);
  put(footer, kPayloadChecksumAt, uint64_t{payloadChecksum});
  put(footer, kStoredAtMsAt, storedAtMs);
  std::memcpy(footer + kDigestAt, facts.namespaceDigest.data(), kDigestBytes);
  std::memcpy(footer + kKeyAt, key, facts.keyBytes);
  std::memcpy(footer + kWriterAt, facts.writer.data(), std::min(facts.writer.size(), kWriterBytesMax));
  put(footer, kFooterChecksumAt, crc32c(footer, kFooterChecksumAt));
}

BlockOutcome judgeFooter(const uint8_t* footer, const FooterFacts& facts, const uint8_t* key) {
  constexpr BlockOutcome corrupt{Outcome::Corrupt, Code::Corrupt};
  if (std::memcmp(footer, kMagic, sizeof(kMagic)) != 0) return corrupt;
  if (get<uint32_t>(footer, kFooterChecksumAt) != crc32c(footer, kFooterChecksumAt)) return corrupt;
  if (get<uint32_t>(footer, kVersionAt) != kFormatVersion || get<uint16_t>(footer, kCodecAt) != kCodecPlain ||
      get<uint16_t>(footer, kChecksumKindAt) != kChecksumCrc32c) {
    return {Outcome::Miss, Code::Unsupported};
  }
  if (std::memcmp(footer + kDigestAt, facts.namespaceDigest.data(), kDigestBytes) != 0) {
    return {Outcome::Miss, Code::NamespaceMismatch};
  }
  if (get<uint32_t>(footer, kKeyBytesAt) != facts.keyBytes ||
      std::memcmp(footer + kKeyAt, key, facts.keyBytes) != 0 ||
      get<uint64_t>(footer, kPayloadBytesAt) != facts.blockBytes) {
    return corrupt;
  }
  return {Outcome::Loaded, Code::None};
}

uint64_t payloadChecksumOf(const uint8_t* footer) { return get<uint64_t>(footer, kPayloadChecksumAt); }

}  // namespace kvferry
