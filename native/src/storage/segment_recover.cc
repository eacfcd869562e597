// What a drive holds, from its summaries and, where there is none, from the records themselves.
#include <cstring>

#include "storage/segment_drive.h"

namespace kvferry {
namespace {

/** Most summaries fit into this, and then one read brings it. */
constexpr uint64_t kTailBytes = 64 * 1024;
/** Pages looked at in one read where no record header is found at its place. */
constexpr uint64_t kScanBytes = 256 * 1024;

bool isZero(const uint8_t* page) {
  return page[0] == 0 && std::memcmp(page, page + 1, kPageBytes - 1) == 0;
}

}  // namespace

RecoveredPart SegmentDrive::recover(uint32_t first, uint32_t count) {
  RecoveredPart part;
  for (uint32_t index = first; index < first + count; index++) {
    try {
      recoverSegment(part, index);
    } catch (const Error&) {
      part.damagedSegments++;
    }
  }
  return part;
}

void SegmentDrive::recoverSegment(RecoveredPart& part, uint32_t index) {
  AlignedBuffer buffer;
  uint8_t* const page = buffer.reserve(kPageBytes);
  move(false, page, kPageBytes, superblock().placeOf(index));
  RecoveredPart::Segment segment;
  if (!readSegmentHeader(page, superblock().uuid, index, segment.life)) {
    if (!isZero(page)) part.damagedSegments++;
    return;
  }
  segment.sealed = recoverSummary(part, segment);
  if (!segment.sealed) walk(part, segment);
  part.segments.push_back(std::move(segment));
}

bool SegmentDrive::recoverSummary(RecoveredPart& part, RecoveredPart::Segment& segment) {
  const uint64_t segmentBytes = superblock().segmentBytes;
  const uint64_t end = superblock().placeOf(segment.life.segment) + segmentBytes;
  const uint64_t tailBytes = std::min(kTailBytes, segmentBytes - kSegmentHeaderBytes);
  AlignedBuffer buffer;
  uint8_t* memory = buffer.reserve(tailBytes);
  move(false, memory, tailBytes, end - tailBytes);
  Summary summary;
  if (!readSummary(memory + tailBytes - kPageBytes, superblock().uuid, segment.life, segmentBytes, summary)) return false;
  const uint64_t bytes = summaryBytes(summary.bodyBytes);
  const uint8_t* body = memory + tailBytes - bytes;
  if (bytes > tailBytes) {
    body = memory = buffer.reserve(bytes);
    move(false, memory, bytes, end - bytes);
  }
  if (!readSummaryBody(body, superblock().uuid, summary, segmentBytes, segment.records)) {
    part.damagedSegments++;
    return false;
  }
  segment.usedBytes = summary.usedBytes;
  part.buffers.push_back(std::move(buffer));
  return true;
}

/** Record by record; where there is none, page by page. Payloads are not read while headers are where they should be. */
void SegmentDrive::walk(RecoveredPart& part, RecoveredPart::Segment& segment) {
  const uint64_t segmentBytes = superblock().segmentBytes;
  const uint64_t place = superblock().placeOf(segment.life.segment);
  AlignedBuffer buffer;
  uint8_t* const pages = buffer.reserve(kScanBytes);
  uint64_t windowStart = 0;
  uint64_t windowEnd = 0;
  bool lost = false;
  for (uint64_t offset = kSegmentHeaderBytes; offset < segmentBytes;) {
    if (offset < windowStart || offset >= windowEnd) {
      // Lost: many pages will be looked at.
      const uint64_t bytes = std::min(lost ? kScanBytes : kPageBytes, segmentBytes - offset);
      move(false, pages, bytes, place + offset);
      windowStart = offset;
      windowEnd = offset + bytes;
    }
    lost = !readRecordAt(part, segment, pages + (offset - windowStart), offset);
    offset = lost ? offset + kPageBytes : segment.usedBytes;
  }
}

bool SegmentDrive::readRecordAt(RecoveredPart& part, RecoveredPart::Segment& segment, const uint8_t* page,
                                uint64_t offset) {
  const RecordBounds bounds{superblock().uuid, segment.life, offset, superblock().segmentBytes};
  const uint64_t bytes = recordHeaderBytes(page, bounds);
  if (bytes == 0) return false;
  AlignedBuffer buffer;
  uint8_t* const header = buffer.reserve(bytes);
  std::memcpy(header, page, kPageBytes);
  if (bytes > kPageBytes) {
    move(false, header + kPageBytes, bytes - kPageBytes,
         superblock().placeOf(segment.life.segment) + offset + kPageBytes);
  }
  Record record;
  if (!readRecordHeader(header, bounds, record)) {
    part.damagedRecords++;
    return false;
  }
  segment.usedBytes = offset + record.shape.recordBytes(record.count);
  segment.records.push_back(record);
  part.buffers.push_back(std::move(buffer));
  return true;
}

void SegmentDrive::takeUp(const RecoveredPart& part) {
  const std::lock_guard lock(mutex_);
  for (const RecoveredPart::Segment& found : part.segments) {
    uint64_t& epoch = epochs_[found.life.segment];
    if (epoch != 0) throw Error(Code::Busy, "recover comes before anything is begun");
    epoch = found.life.epoch;
    if (found.sealed) continue;
    OpenSegment segment;
    segment.life = found.life;
    segment.nextOffset = found.usedBytes;
    for (const Record& record : found.records) {
      const uint8_t* const header = record.checksums - kRecordFixedBytes;
      segment.body.insert(segment.body.end(), header, header + record.shape.entriesEnd(record.count));
    }
    segment.bodyBytesMax = segment.body.size();
    segment.records = static_cast<uint32_t>(found.records.size());
    open_[found.life.segment] = std::move(segment);
  }
}

}  // namespace kvferry
