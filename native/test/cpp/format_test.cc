// What other programs read: checksums, footer bytes, paths.
#include <cstring>

#include "checksum/crc32c.h"
#include "fixture.h"

namespace kvferry::test {

/** Bit by bit, from the definition; shares nothing with the code under test. */
static uint32_t plainCrc(const uint8_t* data, size_t bytes) {
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < bytes; i++) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78 : 0);
  }
  return ~crc;
}

TEST(checksum_is_crc32c) {
  CHECK_EQ(crc32c("123456789", 9), 0xe3069283u);
  checksum::forcePortable(true);
  CHECK_EQ(std::string(checksumImplementation()), "portable");
  CHECK_EQ(crc32c("123456789", 9), 0xe3069283u);
  checksum::forcePortable(false);
}

TEST(checksum_of_all_implementations_agrees_at_every_length_and_alignment) {
  Memory memory(200'000);
  memory.fill(1);
  const checksum::Function hardware = checksum::hardware();
  std::mt19937 random(2);
  for (int round = 0; round < 600; round++) {
    const size_t length = round < 300 ? static_cast<size_t>(round) * 3 : random() % 100'000;
    const uint8_t* data = memory.data() + random() % 64;
    const uint32_t expected = round % 10 == 0 || length < 2000 ? plainCrc(data, length) : checksum::portable(0, data, length);
    CHECK_EQ(checksum::portable(0, data, length), expected);
    if (hardware != nullptr) CHECK_EQ(hardware(0, data, length), expected);
    const size_t split = length == 0 ? 0 : random() % length;
    CHECK_EQ(crc32c(data + split, length - split, crc32c(data, split)), expected);
  }
}

TEST(footer_bytes_are_those_of_the_document) {
  FooterFacts facts;
  facts.blockBytes = 0x0000000102030405;
  facts.keyBytes = 36;
  for (size_t i = 0; i < 32; i++) facts.namespaceDigest[i] = static_cast<uint8_t>(0xa0 + i);
  facts.writer = "host-42-7-ff";
  uint8_t key[36];
  for (size_t i = 0; i < 36; i++) key[i] = static_cast<uint8_t>(i + 1);
  uint8_t footer[4096];
  std::memset(footer, 0xee, sizeof(footer));
  writeFooter(footer, facts, key, 0xdeadbeef, 0x0000018fa0b0c0d0);

  const uint8_t start[48] = {0x4b, 0x56, 0x46, 0x45, 0x52, 0x52, 0x59, 0x01,   // magic
                             1,    0,    0,    0,    0,    0x10, 0,    0,      // formatVersion, footerBytes
                             5,    4,    3,    2,    1,    0,    0,    0,      // payloadBytes
                             0,    0,    1,    0,    36,   0,    0,    0,      // codec, checksumKind, keyBytes
                             0xef, 0xbe, 0xad, 0xde, 0,    0,    0,    0,      // payloadChecksum
                             0xd0, 0xc0, 0xb0, 0xa0, 0x8f, 0x01, 0,    0};     // storedAtMs
  CHECK(std::memcmp(footer, start, sizeof(start)) == 0);
  CHECK(std::memcmp(footer + 48, facts.namespaceDigest.data(), 32) == 0);
  CHECK(std::memcmp(footer + 80, key, 36) == 0);
  for (size_t i = 80 + 36; i < 208; i++) CHECK_EQ(int{footer[i]}, 0);
  CHECK(std::memcmp(footer + 208, "host-42-7-ff", 12) == 0);
  for (size_t i = 220; i < 4092; i++) CHECK_EQ(int{footer[i]}, 0);
  uint32_t sum;
  std::memcpy(&sum, footer + 4092, 4);
  CHECK_EQ(sum, plainCrc(footer, 4092));
}

TEST(paths_are_those_of_the_document) {
  const uint8_t key[] = {0xab, 0xcd, 0xef, 0x01, 0x23, 0x00, 0x00, 0x01, 0x02};
  CHECK_EQ(std::string(BlockPath(Layout::Kvferry, key, 9).file), "ab/abcdef012300000102.kvb");
  CHECK_EQ(std::string(BlockPath(Layout::VllmFs, key, 9).file), "abc/de_g258/abcdef0123.bin");
  CHECK_EQ(BlockPath(Layout::VllmFs, key, 9).folderLength, 11u);
  const uint8_t shortest[] = {0xab, 0, 0, 0, 3};
  CHECK_EQ(std::string(BlockPath(Layout::VllmFs, shortest, 5).file), "ab/_g3/ab.bin");
  const std::vector<uint8_t> longest(128, 0xff);
  CHECK_EQ(std::string(BlockPath(Layout::VllmFs, longest.data(), 128).file).size(), 3 + 1 + 14 + 1 + 248 + 4u);
}

TEST(errors_have_the_codes_of_core) {
  CHECK_EQ(codeOfErrno(ENOSPC), Code::NoSpace);
  CHECK_EQ(codeOfErrno(EDQUOT), Code::NoSpace);
  CHECK_EQ(codeOfErrno(ESTALE), Code::Stale);
  CHECK_EQ(codeOfErrno(EIO), Code::Io);
  CHECK_EQ(codeOfErrno(EROFS), Code::ReadOnly);
  CHECK_EQ(codeOfErrno(EMFILE), Code::TooManyFiles);
  CHECK_EQ(codeOfErrno(12345), Code::Internal);
  CHECK_EQ(std::string(codeName(Code::Corrupt)), "CORRUPT");
  CHECK_EQ(std::string(codeName(Code::RegionGone)), "REGION_GONE");
  CHECK_EQ(std::string(codeName(Code::Internal)), "INTERNAL");
}

}  // namespace kvferry::test
