// The bytes of a segment drive: what is written is read back, and no damage whatever is taken for something else.
#include <cstring>

#include "checksum/crc32c.h"
#include "storage/segment_format.h"
#include "fixture.h"

namespace kvferry::test {
namespace {

constexpr uint64_t kSegmentBytes = 1024 * 1024;

Uuid uuidOf(uint8_t seed) {
  Uuid uuid;
  uuid.fill(seed);
  return uuid;
}

RecordHeader factsOf(uint32_t count, uint32_t keyBytes = 36) {
  RecordHeader facts;
  facts.life = {3, 5, 77};
  facts.shape.namespaceDigest.fill(0xd1);
  facts.shape.keyBytes = keyBytes;
  facts.shape.blockBytes = 5000;
  facts.offset4k = 2;
  facts.count = count;
  facts.storedAtMs = 123'456;
  return facts;
}

std::vector<uint8_t> headerOf(const RecordHeader& facts, const Uuid& uuid) {
  std::vector<uint8_t> header(facts.shape.headerBytes(facts.count));
  std::vector<uint32_t> checksums(facts.count);
  std::vector<uint8_t> keys(size_t{facts.count} * facts.shape.keyBytes);
  std::mt19937 random(1);
  for (auto& each : checksums) each = static_cast<uint32_t>(random());
  for (auto& each : keys) each = static_cast<uint8_t>(random());
  writeRecordHeader(header.data(), uuid, facts, checksums.data(), keys.data());
  return header;
}

}  // namespace

TEST(superblocks_and_segment_headers_come_back_and_no_flip_goes_unseen) {
  std::vector<uint8_t> page(4096);
  const Superblock written{uuidOf(7), 65536, 12, 99};
  writeSuperblock(page.data(), written);
  Superblock read;
  CHECK(readSuperblock(page.data(), read));
  CHECK(read.uuid == written.uuid && read.segmentBytes == 65536 && read.segments == 12 && read.madeAtMs == 99);
  CHECK_EQ(read.driveBytes(), kDriveHeaderBytes + 12 * 65536);
  std::vector<uint8_t> header(4096);
  const Life life{9, 1, 4};
  writeSegmentHeader(header.data(), uuidOf(7), life);
  Life found;
  CHECK(readSegmentHeader(header.data(), uuidOf(7), 9, found));
  CHECK(found.epoch == 1 && found.sequence == 4 && found.segment == 9);
  CHECK(!readSegmentHeader(header.data(), uuidOf(7), 8, found));
  CHECK(!readSegmentHeader(header.data(), uuidOf(8), 9, found));
  for (size_t at = 0; at < 4096; at++) {
    page[at] ^= 0x40;
    header[at] ^= 0x40;
    CHECK(!readSuperblock(page.data(), read));
    CHECK(!readSegmentHeader(header.data(), uuidOf(7), 9, found));
    page[at] ^= 0x40;
    header[at] ^= 0x40;
  }
}

TEST(superblocks_that_make_no_sense_are_refused_although_they_verify) {
  std::vector<uint8_t> page(4096);
  Superblock read;
  for (const auto& [segmentBytes, segments] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, 1}, {4096, 1}, {65537, 1}, {65536, 0}, {65536, UINT64_MAX}, {uint64_t{1} << 63, 2}}) {
    writeSuperblock(page.data(), {uuidOf(1), segmentBytes, segments, 0});
    CHECK(!readSuperblock(page.data(), read));
  }
}

TEST(record_headers_come_back_and_no_flip_goes_unseen) {
  for (const uint32_t count : {1u, 3u, 99u, 100u, 500u}) {
    for (const uint32_t keyBytes : {5u, 36u, 128u}) {
      RecordHeader facts = factsOf(count, keyBytes);
      facts.shape.blockBytes = 100;
      const uint64_t segmentBytes = 16 * kSegmentBytes;
      const std::vector<uint8_t> header = headerOf(facts, uuidOf(7));
      const Uuid uuid = uuidOf(7);
      const RecordBounds bounds{uuid, facts.life, 8192, segmentBytes};
      CHECK_EQ(recordHeaderBytes(header.data(), bounds), header.size());
      Record record;
      CHECK(readRecordHeader(header.data(), bounds, record));
      CHECK(record.shape == facts.shape);
      CHECK(record.sequence == 77 && record.storedAtMs == 123'456 && record.offset4k == 2 && record.count == count);
      std::vector<uint8_t> damaged = header;
      for (size_t at = 0; at < header.size(); at += count > 3 ? 7 : 1) {
        damaged[at] ^= 1;
        const uint64_t bytes = recordHeaderBytes(damaged.data(), bounds);
        CHECK(bytes == 0 || (bytes == header.size() && !readRecordHeader(damaged.data(), bounds, record)));
        damaged[at] ^= 1;
      }
    }
  }
}

TEST(record_headers_of_another_place_life_or_drive_are_not_this_ones) {
  const RecordHeader facts = factsOf(4);
  const std::vector<uint8_t> header = headerOf(facts, uuidOf(7));
  const Uuid uuid = uuidOf(7);
  const Uuid other = uuidOf(6);
  Record record;
  CHECK(readRecordHeader(header.data(), {uuid, facts.life, 8192, kSegmentBytes}, record));
  CHECK(!readRecordHeader(header.data(), {other, facts.life, 8192, kSegmentBytes}, record));
  CHECK(!readRecordHeader(header.data(), {uuid, facts.life, 12288, kSegmentBytes}, record));
  CHECK(!readRecordHeader(header.data(), {uuid, {3, 6, 77}, 8192, kSegmentBytes}, record));
  CHECK(!readRecordHeader(header.data(), {uuid, {2, 5, 77}, 8192, kSegmentBytes}, record));
  // The sequence is the record's own.
  CHECK(readRecordHeader(header.data(), {uuid, {3, 5, 1}, 8192, kSegmentBytes}, record));
}

TEST(record_headers_out_of_bounds_are_refused_although_they_verify) {
  const Uuid uuid = uuidOf(7);
  Record record;
  const auto accepted = [&](auto change) {
    RecordHeader facts = factsOf(4);
    change(facts);
    std::vector<uint8_t> header(64 * 4096);
    // Sizes that the arrays do not have: only the numbers matter.
    const std::vector<uint32_t> checksums(facts.count + 1);
    const std::vector<uint8_t> keys(size_t{facts.count + 1} * facts.shape.keyBytes);
    writeRecordHeader(header.data(), uuid, facts, checksums.data(), keys.data());
    return readRecordHeader(header.data(), {uuid, facts.life, uint64_t{facts.offset4k} * 4096, kSegmentBytes}, record);
  };
  CHECK(accepted([](RecordHeader&) {}));
  CHECK(!accepted([](RecordHeader& facts) { facts.offset4k = 0; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.offset4k = 256; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.offset4k = 255; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.offset4k = UINT32_MAX; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.count = 0; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.shape.keyBytes = 4; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.shape.keyBytes = 129; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.shape.blockBytes = 0; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.shape.blockBytes = kSegmentBytes; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.shape.blockBytes = UINT64_MAX; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.shape.blockBytes = uint64_t{1} << 63; }));
  CHECK(!accepted([](RecordHeader& facts) { facts.life.sequence = UINT64_MAX; }));
}

TEST(summaries_come_back_and_no_flip_goes_unseen) {
  const Uuid uuid = uuidOf(7);
  std::vector<uint8_t> body;
  for (uint32_t i = 0; i < 5; i++) {
    RecordHeader facts = factsOf(3 + i, 10 + i);
    facts.offset4k = 1 + 20 * i;
    const std::vector<uint8_t> header = headerOf(facts, uuid);
    body.insert(body.end(), header.begin(), header.begin() + static_cast<long>(facts.shape.entriesEnd(facts.count)));
  }
  Summary written{{3, 5, 88}, body.size(), 5, crc32c(body.data(), body.size()), 120 * 4096};
  std::vector<uint8_t> page(4096);
  writeSummary(page.data(), uuid, written);
  Summary read;
  CHECK(readSummary(page.data(), uuid, {3, 5, 1}, kSegmentBytes, read));
  CHECK(!readSummary(page.data(), uuid, {3, 4, 1}, kSegmentBytes, read));
  CHECK(!readSummary(page.data(), uuid, {2, 5, 1}, kSegmentBytes, read));
  CHECK(!readSummary(page.data(), uuidOf(1), {3, 5, 1}, kSegmentBytes, read));
  CHECK(readSummary(page.data(), uuid, {3, 5, 1}, kSegmentBytes, read));
  std::vector<Record> records;
  CHECK(readSummaryBody(body.data(), uuid, read, kSegmentBytes, records));
  CHECK_EQ(records.size(), 5u);
  CHECK(records[4].count == 7 && records[4].shape.keyBytes == 14 && records[4].offset4k == 81);
  for (size_t at = 0; at < page.size(); at++) {
    page[at] ^= 2;
    CHECK(!readSummary(page.data(), uuid, {3, 5, 1}, kSegmentBytes, read));
    page[at] ^= 2;
  }
  CHECK(readSummary(page.data(), uuid, {3, 5, 1}, kSegmentBytes, read));
  for (size_t at = 0; at < body.size(); at++) {
    body[at] ^= 2;
    CHECK(!readSummaryBody(body.data(), uuid, read, kSegmentBytes, records));
    CHECK_EQ(records.size(), 5u);
    body[at] ^= 2;
  }
}

TEST(summaries_that_make_no_sense_are_refused_although_they_verify) {
  const Uuid uuid = uuidOf(7);
  std::vector<uint8_t> page(4096);
  Summary read;
  const auto accepted = [&](uint64_t bodyBytes, uint64_t usedBytes) {
    writeSummary(page.data(), uuid, {{3, 5, 1}, bodyBytes, 1, 0, usedBytes});
    return readSummary(page.data(), uuid, {3, 5, 1}, kSegmentBytes, read);
  };
  CHECK(accepted(100, 4096));
  CHECK(!accepted(UINT64_MAX, 4096));
  CHECK(!accepted(kSegmentBytes, 4096));
  CHECK(!accepted(100, 0));
  CHECK(!accepted(100, 4097));
  CHECK(!accepted(100, kSegmentBytes));
  CHECK(!accepted(100, uint64_t{1} << 60));
  // Bodies whose records do not fill them, or reach beyond.
  std::mt19937_64 random(3);
  for (int round = 0; round < 3000; round++) {
    std::vector<uint8_t> body(128 + random() % 400);
    const std::vector<uint8_t> header = headerOf(factsOf(1 + static_cast<uint32_t>(random() % 5), 5), uuid);
    std::memcpy(body.data(), header.data(), std::min(body.size(), header.size()));
    for (int i = 0; i < 3; i++) body[48 + random() % 24] = static_cast<uint8_t>(random());
    Summary summary{{3, 5, 1}, body.size(), static_cast<uint32_t>(random() % 4), crc32c(body.data(), body.size()), 8192};
    std::vector<Record> records;
    if (!readSummaryBody(body.data(), uuid, summary, kSegmentBytes, records)) continue;
    for (const Record& record : records) CHECK(record.keys + size_t{record.count} * record.shape.keyBytes <= body.data() + body.size());
  }
}

TEST(payload_seeds_differ_by_key_and_namespace) {
  Digest one{};
  Digest other{};
  other[31] = 1;
  const uint8_t keys[] = {1, 2, 3, 4, 5, 6};
  CHECK_EQ(payloadSeed(one, keys, 5), crc32c(keys, 5, crc32c(one.data(), 32)));
  CHECK(payloadSeed(one, keys, 5) != payloadSeed(other, keys, 5));
  CHECK(payloadSeed(one, keys, 5) != payloadSeed(one, keys + 1, 5));
}

}  // namespace kvferry::test
