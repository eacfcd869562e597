#include "storage/segment_format.h"

#include <cstring>

#include "checksum/crc32c.h"

namespace kvferry {
namespace {

constexpr uint32_t kVersion = 1;
constexpr uint16_t kCodecPlain = 0;
constexpr uint16_t kChecksumCrc32c = 1;
constexpr size_t kPageChecksumAt = kPageBytes - 4;
constexpr size_t kHeaderChecksumAt = 116;

template <typename Number>
void put(uint8_t* to, size_t at, Number value) {
  std::memcpy(to + at, &value, sizeof(value));
}

template <typename Number>
Number get(const uint8_t* from, size_t at) {
  Number value;
  std::memcpy(&value, from + at, sizeof(value));
  return value;
}

/** Magic, version, a number at 12 and the uuid at 16: how every header begins. */
void begin(uint8_t* page, const char* magic, uint32_t number, const Uuid& uuid) {
  std::memset(page, 0, kPageBytes);
  std::memcpy(page, magic, 8);
  put(page, 8, kVersion);
  put(page, 12, number);
  std::memcpy(page + 16, uuid.data(), uuid.size());
}

void sealPage(uint8_t* page) { put(page, kPageChecksumAt, crc32c(page, kPageChecksumAt)); }

bool verifies(const uint8_t* page, const char* magic) {
  return std::memcmp(page, magic, 8) == 0 && get<uint32_t>(page, 8) == kVersion &&
         get<uint32_t>(page, kPageChecksumAt) == crc32c(page, kPageChecksumAt);
}

bool sameUuid(const uint8_t* page, const Uuid& uuid) { return std::memcmp(page + 16, uuid.data(), uuid.size()) == 0; }

uint32_t headerChecksum(const uint8_t* header, size_t bytes) {
  static constexpr uint8_t zeros[4] = {};
  const uint32_t before = crc32c(zeros, sizeof(zeros), crc32c(header, kHeaderChecksumAt));
  return crc32c(header + kHeaderChecksumAt + 4, bytes - kHeaderChecksumAt - 4, before);
}

/** Everything in a record's fixed part but its checksum; `record` gets pointers to entries that may not have been read yet. */
bool readFixedPart(const uint8_t* header, const Uuid& uuid, const Life& life, uint64_t segmentBytes, Record& record) {
  if (std::memcmp(header, "KVFRECRD", 8) != 0 || !sameUuid(header, uuid)) return false;
  if (get<uint32_t>(header, 8) != kVersion || get<uint64_t>(header, 32) != life.epoch ||
      get<uint32_t>(header, 48) != life.segment || get<uint16_t>(header, 112) != kCodecPlain ||
      get<uint16_t>(header, 114) != kChecksumCrc32c) {
    return false;
  }
  record.sequence = get<uint64_t>(header, 40);
  record.offset4k = get<uint32_t>(header, 52);
  record.count = get<uint32_t>(header, 56);
  record.shape.keyBytes = get<uint32_t>(header, 60);
  record.shape.blockBytes = get<uint64_t>(header, 64);
  record.storedAtMs = get<uint64_t>(header, 72);
  std::memcpy(record.shape.namespaceDigest.data(), header + 80, kDigestBytes);
  if (record.sequence > kNumberMax || record.count == 0 || record.count > kRecordBlocksMax ||
      record.shape.keyBytes < kKeyBytesMin || record.shape.keyBytes > kKeyBytesMax || record.shape.blockBytes == 0 ||
      record.shape.blockBytes > kSegmentBlockBytesMax) {
    return false;
  }
  const uint64_t offset = uint64_t{record.offset4k} * kPageBytes;
  if (get<uint32_t>(header, 12) != record.shape.headerBytes(record.count) || offset < kSegmentHeaderBytes ||
      offset > segmentBytes || record.shape.recordBytes(record.count) > segmentBytes - offset) {
    return false;
  }
  record.checksums = header + kRecordFixedBytes;
  record.keys = record.checksums + size_t{record.count} * 4;
  return true;
}

}  // namespace

void writeSuperblock(uint8_t* page, const Superblock& superblock) {
  begin(page, "KVFDRIVE", 0, superblock.uuid);
  put(page, 32, superblock.segmentBytes);
  put(page, 40, superblock.segments);
  put(page, 48, superblock.madeAtMs);
  sealPage(page);
}

bool readSuperblock(const uint8_t* page, Superblock& superblock) {
  if (!verifies(page, "KVFDRIVE")) return false;
  std::memcpy(superblock.uuid.data(), page + 16, superblock.uuid.size());
  superblock.segmentBytes = get<uint64_t>(page, 32);
  superblock.segments = get<uint64_t>(page, 40);
  superblock.madeAtMs = get<uint64_t>(page, 48);
  return superblock.segmentBytes >= kSegmentBytesMin && superblock.segmentBytes % kPageBytes == 0 &&
         superblock.segments > 0 && superblock.segmentBytes <= kDriveBytesMax &&
         superblock.segments <= kDriveBytesMax / superblock.segmentBytes;
}

void writeSegmentHeader(uint8_t* page, const Uuid& uuid, const Life& life) {
  begin(page, "KVFSEGMT", life.segment, uuid);
  put(page, 32, life.epoch);
  put(page, 40, life.sequence);
  sealPage(page);
}

bool readSegmentHeader(const uint8_t* page, const Uuid& uuid, uint32_t segment, Life& life) {
  if (!verifies(page, "KVFSEGMT") || !sameUuid(page, uuid) || get<uint32_t>(page, 12) != segment) return false;
  life = {segment, get<uint64_t>(page, 32), get<uint64_t>(page, 40)};
  return life.epoch > 0 && life.epoch <= kNumberMax && life.sequence <= kNumberMax;
}

uint32_t Record::checksum(uint32_t i) const { return get<uint32_t>(checksums, size_t{i} * 4); }

void writeRecordHeader(uint8_t* header, const Uuid& uuid, const RecordHeader& facts, const uint32_t* checksums,
                       const uint8_t* keys) {
  const size_t bytes = facts.shape.headerBytes(facts.count);
  const size_t end = facts.shape.entriesEnd(facts.count);
  begin(header, "KVFRECRD", static_cast<uint32_t>(bytes), uuid);
  put(header, 32, facts.life.epoch);
  put(header, 40, facts.life.sequence);
  put(header, 48, facts.life.segment);
  put(header, 52, facts.offset4k);
  put(header, 56, facts.count);
  put(header, 60, facts.shape.keyBytes);
  put(header, 64, facts.shape.blockBytes);
  put(header, 72, facts.storedAtMs);
  std::memcpy(header + 80, facts.shape.namespaceDigest.data(), kDigestBytes);
  put(header, 112, kCodecPlain);
  put(header, 114, kChecksumCrc32c);
  uint8_t* const entries = header + kRecordFixedBytes;
  std::memcpy(entries, checksums, size_t{facts.count} * 4);
  std::memcpy(entries + size_t{facts.count} * 4, keys, size_t{facts.count} * facts.shape.keyBytes);
  std::memset(header + end, 0, bytes - end);
  put(header, kHeaderChecksumAt, headerChecksum(header, bytes));
}

uint64_t recordHeaderBytes(const uint8_t* page, const RecordBounds& bounds) {
  Record record;
  if (!readFixedPart(page, bounds.uuid, bounds.life, bounds.segmentBytes, record)) return 0;
  if (uint64_t{record.offset4k} * kPageBytes != bounds.offset) return 0;
  return record.shape.headerBytes(record.count);
}

bool readRecordHeader(const uint8_t* header, const RecordBounds& bounds, Record& record) {
  return readFixedPart(header, bounds.uuid, bounds.life, bounds.segmentBytes, record) &&
         uint64_t{record.offset4k} * kPageBytes == bounds.offset &&
         get<uint32_t>(header, kHeaderChecksumAt) == headerChecksum(header, record.shape.headerBytes(record.count));
}

void writeSummary(uint8_t* page, const Uuid& uuid, const Summary& summary) {
  begin(page, "KVFSUMRY", summary.life.segment, uuid);
  put(page, 32, summary.life.epoch);
  put(page, 40, summary.life.sequence);
  put(page, 48, summary.bodyBytes);
  put(page, 56, summary.records);
  put(page, 60, summary.bodyChecksum);
  put(page, 64, summary.usedBytes);
  sealPage(page);
}

bool readSummary(const uint8_t* page, const Uuid& uuid, const Life& life, uint64_t segmentBytes, Summary& summary) {
  if (!verifies(page, "KVFSUMRY") || !sameUuid(page, uuid)) return false;
  summary.life = {get<uint32_t>(page, 12), get<uint64_t>(page, 32), get<uint64_t>(page, 40)};
  summary.bodyBytes = get<uint64_t>(page, 48);
  summary.records = get<uint32_t>(page, 56);
  summary.bodyChecksum = get<uint32_t>(page, 60);
  summary.usedBytes = get<uint64_t>(page, 64);
  return summary.life.segment == life.segment && summary.life.epoch == life.epoch &&
         summary.bodyBytes <= segmentBytes && summary.usedBytes >= kSegmentHeaderBytes &&
         summary.usedBytes % kPageBytes == 0 && summary.usedBytes <= segmentBytes &&
         summaryBytes(summary.bodyBytes) <= segmentBytes - summary.usedBytes;
}

bool readSummaryBody(const uint8_t* body, const Uuid& uuid, const Summary& summary, uint64_t segmentBytes,
                     std::vector<Record>& records) {
  if (crc32c(body, summary.bodyBytes) != summary.bodyChecksum) return false;
  const size_t before = records.size();
  uint64_t at = 0;
  for (uint32_t i = 0; i < summary.records; i++) {
    Record record;
    if (summary.bodyBytes - at < kRecordFixedBytes ||
        !readFixedPart(body + at, uuid, summary.life, segmentBytes, record) ||
        record.shape.entriesEnd(record.count) > summary.bodyBytes - at) {
      records.resize(before);
      return false;
    }
    at += record.shape.entriesEnd(record.count);
    records.push_back(record);
  }
  if (at == summary.bodyBytes) return true;
  records.resize(before);
  return false;
}

uint32_t payloadSeed(const Digest& namespaceDigest, const uint8_t* key, uint32_t keyBytes) {
  return crc32c(key, keyBytes, crc32c(namespaceDigest.data(), namespaceDigest.size()));
}

}  // namespace kvferry
