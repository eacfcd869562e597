// What a segment drive holds, byte by byte. Format version 1; all integers are little-endian, all checksums are CRC-32C as in
// docs/block-format.md, and everything begins at a multiple of 4096 bytes (a page).
//
//   0          4096        1 MiB                       1 MiB + S              1 MiB + 2 S
//   +----------+-----------+---------------------------+----------------------+---- …
//   |superblock|   copy    | segment 0                 | segment 1            |        S = segmentBytes
//   +----------+-----------+---------------------------+----------------------+---- …
//
// A drive is a file (`segments.kvs`) or a block device. What lies between the copy of the superblock and 1 MiB is zero. A
// reader takes the first superblock that verifies; a writer writes both.
//
// Superblock (4096 bytes)
//   at  bytes
//    0   8   magic "KVFDRIVE"
//    8   4   formatVersion 1
//   12   4   zero
//   16  16   uuid: random; names the drive in every header on it, so that no payload, whoever chose its bytes, and no
//            rest of another drive is taken for a header
//   32   8   segmentBytes
//   40   8   segments
//   48   8   madeAtMs: milliseconds since 1970
//   4092 4   checksum of bytes 0 to 4091
//
// A segment
//
//   0                4096                                                     S - 4096 - B       S - 4096     S
//   +----------------+--------+--------+--------+ … +--------+----------------+------------------+------------+
//   | segment header | record | record |  gap   |   | record |  never used    | summary body     | summary    |
//   +----------------+--------+--------+--------+ … +--------+----------------+------------------+------------+
//
// A segment lives many lives, counted by its epoch. The header begins a life; a record or summary of another epoch than the header's is
// a rest of an earlier life. A header of zeros: the segment is free. Records do not overlap; gaps are left by writes that failed.
//
// Segment header (4096 bytes)
//    0   8   magic "KVFSEGMT"
//    8   4   formatVersion 1
//   12   4   segment: its index
//   16  16   uuid of the drive
//   32   8   epoch, at least 1
//   40   8   sequence: the order in which segments were begun and records were written, drive-wide
//   4092 4   checksum of bytes 0 to 4091
//
// Record: one batch of blocks of one namespace
//
//   0                     H                    H + P                                   H + count × P
//   +---------------------+--------------------+--------------------+ … +-------------+
//   | record header       | payload 0, zeros   | payload 1, zeros   |   |             |
//   +---------------------+--------------------+--------------------+ … +-------------+
//   H = 128 + count × (4 + keyBytes), P = blockBytes, both rounded up to a multiple of 4096
//
// The payloads are written first and the header when they are on the drive, so that a record whose header verifies was whole. Still every
// payload is verified by its checksum when it is loaded, because a power cut keeps no order.
//
// Record header (H bytes)
//    0   8   magic "KVFRECRD"
//    8   4   formatVersion 1
//   12   4   headerBytes H
//   16  16   uuid of the drive
//   32   8   epoch of the segment's life
//   40   8   sequence
//   48   4   segment
//   52   4   offset of the record in the segment, in units of 4096
//   56   4   count of blocks, 1 to 65536
//   60   4   keyBytes, 5 to 128
//   64   8   blockBytes
//   72   8   storedAtMs
//   80  32   namespaceDigest: SHA-256 of the namespace's canonical JSON
//  112   2   codec: 0 = plain
//  114   2   checksumKind: 1 = CRC-32C
//  116   4   headerChecksum: of all H bytes, with these four taken as zero
//  120   8   zero
//  128       count × 4: payload checksums, then count × keyBytes: keys, then zeros up to H
//
// The payload checksum of a block is the CRC-32C of namespaceDigest (32), key (keyBytes) and payload (blockBytes, without the zeros
// after it), so that a payload at the wrong place, or of another namespace, never verifies.
//
// Summary: all records of a sealed life, so that recovery reads one place a segment. The body (B bytes, a multiple of 4096) holds the headers
// of the records one after another, each cut after its last key, then zeros. The summary's own page is the segment's last:
//    0   8   magic "KVFSUMRY"
//    8   4   formatVersion 1
//   12   4   segment
//   16  16   uuid of the drive
//   32   8   epoch
//   40   8   sequence
//   48   8   bodyBytes: without the zeros at the end
//   56   4   records
//   60   4   bodyChecksum: of the bodyBytes bytes
//   64   8   usedBytes: where the last record ends
//   4092 4   checksum of bytes 0 to 4091
//
// What recovery decides for a segment: header of zeros: free. Header that does not verify: damaged, nothing of it is used. Summary that
// verifies and has the header's epoch: its records. Otherwise its records are walked from 4096 on: where no header verifies, the next pages
// are looked at one by one up to the segment's end. A record counts only if everything in its header is in bounds and its uuid,
// epoch, segment and offset are those of the place it was found at.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common/aligned.h"
#include "storage/footer.h"

namespace kvferry {

constexpr uint64_t kDriveHeaderBytes = 1024 * 1024;
constexpr uint64_t kSegmentHeaderBytes = kPageBytes;
constexpr uint64_t kSegmentBytesMin = 65536;
constexpr uint64_t kDriveBytesMax = uint64_t{1} << 44;  // places are 32 bits of 4096 bytes
constexpr uint32_t kRecordBlocksMax = 65536;
constexpr size_t kRecordFixedBytes = 128;
constexpr uint64_t kNumberMax = uint64_t{1} << 53;  // of epochs and sequences: what JavaScript can count to
constexpr uint64_t kSegmentBlockBytesMax = uint64_t{1} << 40;

using Uuid = std::array<uint8_t, 16>;
using Digest = std::array<uint8_t, kDigestBytes>;

struct Superblock {
  Uuid uuid{};
  uint64_t segmentBytes = 0;
  uint64_t segments = 0;
  uint64_t madeAtMs = 0;

  uint64_t driveBytes() const { return kDriveHeaderBytes + segments * segmentBytes; }
  uint64_t placeOf(uint64_t segment) const { return kDriveHeaderBytes + segment * segmentBytes; }
};

/** Writes a page. */
void writeSuperblock(uint8_t* page, const Superblock& superblock);
/** False if the page does not verify or makes no sense. */
bool readSuperblock(const uint8_t* page, Superblock& superblock);

/** A segment's life. */
struct Life {
  uint32_t segment = 0;
  uint64_t epoch = 0;
  uint64_t sequence = 0;
};

void writeSegmentHeader(uint8_t* page, const Uuid& uuid, const Life& life);
/** False if the page does not verify, or is not `segment`'s. */
bool readSegmentHeader(const uint8_t* page, const Uuid& uuid, uint32_t segment, Life& life);

/** What records of one namespace have in common. */
struct RecordShape {
  Digest namespaceDigest{};
  uint32_t keyBytes = 0;
  uint64_t blockBytes = 0;

  bool operator==(const RecordShape&) const = default;
  uint64_t paddedBytes() const { return roundUpToPage(blockBytes); }
  /** Of a record's header without the zeros at its end: what it takes in a summary. */
  uint64_t entriesEnd(uint32_t count) const { return kRecordFixedBytes + uint64_t{count} * (4 + keyBytes); }
  uint64_t headerBytes(uint32_t count) const { return roundUpToPage(entriesEnd(count)); }
  uint64_t recordBytes(uint32_t count) const { return headerBytes(count) + count * paddedBytes(); }
};

/** One record as its header tells it; pointers are into the header. */
struct Record {
  RecordShape shape;
  uint64_t sequence = 0;
  uint64_t storedAtMs = 0;
  uint32_t offset4k = 0;
  uint32_t count = 0;
  const uint8_t* checksums = nullptr;  // count × 4, not aligned
  const uint8_t* keys = nullptr;

  uint32_t checksum(uint32_t i) const;
};

struct RecordHeader {
  Life life;  // its sequence is the record's
  RecordShape shape;
  uint32_t offset4k = 0;
  uint32_t count = 0;
  uint64_t storedAtMs = 0;
};

/** Writes `shape.headerBytes(count)` bytes. */
void writeRecordHeader(uint8_t* header, const Uuid& uuid, const RecordHeader& facts, const uint32_t* checksums,
                       const uint8_t* keys);

/** Where a record header may say that it is. */
struct RecordBounds {
  const Uuid& uuid;
  Life life;
  uint64_t offset;        // in the segment
  uint64_t segmentBytes;
};

/** What a first page of a record says of its header's length; 0 if it is not a record of this place at all. */
uint64_t recordHeaderBytes(const uint8_t* page, const RecordBounds& bounds);
/** Reads a whole header of `recordHeaderBytes` bytes. False if it does not verify or is out of bounds. */
bool readRecordHeader(const uint8_t* header, const RecordBounds& bounds, Record& record);

struct Summary {
  Life life;
  uint64_t bodyBytes = 0;
  uint32_t records = 0;
  uint32_t bodyChecksum = 0;
  uint64_t usedBytes = 0;

  uint64_t paddedBodyBytes() const { return roundUpToPage(bodyBytes); }
};

/** Of a summary with its own page. */
constexpr uint64_t summaryBytes(uint64_t bodyBytes) { return kPageBytes + roundUpToPage(bodyBytes); }

void writeSummary(uint8_t* page, const Uuid& uuid, const Summary& summary);
/** False if the page does not verify, is not of this life, or its body would not fit into the segment. */
bool readSummary(const uint8_t* page, const Uuid& uuid, const Life& life, uint64_t segmentBytes, Summary& summary);
/** The records in a summary's body. False, and nothing of it to be used, if the body does not verify. */
bool readSummaryBody(const uint8_t* body, const Uuid& uuid, const Summary& summary, uint64_t segmentBytes,
                     std::vector<Record>& records);

/** CRC-32C of namespace digest and key: where a payload's checksum begins. */
uint32_t payloadSeed(const Digest& namespaceDigest, const uint8_t* key, uint32_t keyBytes);

}  // namespace kvferry
