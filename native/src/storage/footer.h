// The footer of docs/block-format.md, and what a reader decides by it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/codes.h"

namespace kvferry {

constexpr size_t kFooterBytes = 4096;
constexpr size_t kDigestBytes = 32;
constexpr size_t kKeyBytesMin = 5;
constexpr size_t kKeyBytesMax = 128;
constexpr size_t kWriterBytesMax = 64;

/** What all footers of a namespace and writer have in common. */
struct FooterFacts {
  uint64_t blockBytes = 0;
  uint32_t keyBytes = 0;
  std::array<uint8_t, kDigestBytes> namespaceDigest{};
  std::string writer;
};

/** Writes a whole footer, checksum included. `key` has `facts.keyBytes` bytes. */
void writeFooter(uint8_t* footer, const FooterFacts& facts, const uint8_t* key, uint32_t payloadChecksum,
                 uint64_t storedAtMs);

/** Everything about a block but its payload, top-down as the table of docs/block-format.md; Loaded means: go on with the
 * payload, whose checksum must be `payloadChecksumOf(footer)`. */
BlockOutcome judgeFooter(const uint8_t* footer, const FooterFacts& facts, const uint8_t* key);

uint64_t payloadChecksumOf(const uint8_t* footer);

}  // namespace kvferry
