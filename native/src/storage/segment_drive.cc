#include "storage/segment_drive.h"

#include <cerrno>
#include <cstring>

#include "checksum/crc32c.h"

namespace kvferry {

std::shared_ptr<SegmentDrive> SegmentDrive::open(DriveOptions options) {
  std::shared_ptr<SegmentDrive> drive(new SegmentDrive(std::move(options)));
  drive->file_ = DriveFile::open(drive->options_);
  drive->epochs_.resize(drive->superblock().segments);
  return drive;
}

uint32_t SegmentDrive::checkedSegment(uint32_t segment) const {
  if (segment < superblock().segments) return segment;
  throw Error(Code::InvalidArgument, "segment " + std::to_string(segment) + " is not on this drive, which has " +
                                         std::to_string(superblock().segments));
}

OpenSegment& SegmentDrive::openSegment(const Life& life) {
  const auto found = open_.find(life.segment);
  if (found != open_.end() && found->second.life.epoch == life.epoch && !found->second.sealing) return found->second;
  throw Error(Code::InvalidArgument, "segment " + std::to_string(life.segment) + " is not open in epoch " +
                                         std::to_string(life.epoch));
}

void SegmentDrive::move(bool writing, uint8_t* memory, uint64_t bytes, uint64_t offset) {
  Transfer transfer;
  transfer.start(writing, static_cast<int64_t>(offset));
  transfer.file = isPageAligned(memory) ? file_->file() : file_->bufferedFile();
  transfer.bufferedFile = file_->bufferedFile();
  transfer.faults = &options_.faults;
  transfer.add(memory, bytes);
  const int64_t moved = moveBlocking(transfer);
  if (moved < 0) throw Error::ofErrno(static_cast<int>(-moved), writing ? "write" : "read", file_->path());
  if (static_cast<uint64_t>(moved) != bytes) throw Error(Code::Io, file_->path() + " has been cut short", EIO, file_->path());
  (writing ? counters_.bytesWritten : counters_.bytesRead).fetch_add(bytes, std::memory_order_relaxed);
}

void SegmentDrive::begin(const Life& life) {
  checkedSegment(life.segment);
  if (life.epoch == 0 || life.epoch > kNumberMax || life.sequence > kNumberMax) {
    throw Error(Code::InvalidArgument, "epoch must be 1 to 2^53, and sequence at most 2^53");
  }
  {
    const std::lock_guard lock(mutex_);
    if (life.epoch <= epochs_[life.segment]) {
      throw Error(Code::InvalidArgument, "segment " + std::to_string(life.segment) + " has had epoch " +
                                             std::to_string(epochs_[life.segment]) + " already");
    }
    const auto found = open_.find(life.segment);
    if (found != open_.end() && (found->second.pending > 0 || found->second.sealing)) {
      throw Error(Code::Busy, "segment " + std::to_string(life.segment) + " is being written to");
    }
    open_.erase(life.segment);
    epochs_[life.segment] = life.epoch;
  }
  const uint64_t place = superblock().placeOf(life.segment);
  if (const int error = file_->reserve(place, superblock().segmentBytes); error < 0) {
    throw Error::ofErrno(-error, "allocate a segment of", file_->path());
  }
  AlignedBuffer buffer;
  uint8_t* const page = buffer.reserve(kPageBytes);
  writeSegmentHeader(page, superblock().uuid, life);
  move(true, page, kPageBytes, place);
  OpenSegment opened;
  opened.life = life;
  const std::lock_guard lock(mutex_);
  open_[life.segment] = std::move(opened);
}

void SegmentDrive::seal(const Life& life) {
  AlignedBuffer buffer;
  uint64_t bytes;
  {
    const std::lock_guard lock(mutex_);
    checkedSegment(life.segment);
    OpenSegment& segment = openSegment(life);
    if (segment.pending > 0) {
      throw Error(Code::Busy, "segment " + std::to_string(life.segment) + " is being written to");
    }
    Summary summary{life, segment.body.size(), segment.records, crc32c(segment.body.data(), segment.body.size()),
                    segment.nextOffset};
    bytes = summaryBytes(summary.bodyBytes);
    uint8_t* const memory = buffer.reserve(bytes);
    if (!segment.body.empty()) std::memcpy(memory, segment.body.data(), segment.body.size());
    std::memset(memory + summary.bodyBytes, 0, summary.paddedBodyBytes() - summary.bodyBytes);
    writeSummary(memory + summary.paddedBodyBytes(), superblock().uuid, summary);
    segment.sealing = true;
  }
  const uint64_t end = superblock().placeOf(life.segment) + superblock().segmentBytes;
  try {
    move(true, buffer.reserve(bytes), bytes, end - bytes);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    open_[life.segment].sealing = false;
    throw;
  }
  const std::lock_guard lock(mutex_);
  open_.erase(life.segment);
}

void SegmentDrive::discard(uint32_t segment) {
  checkedSegment(segment);
  {
    const std::lock_guard lock(mutex_);
    const auto found = open_.find(segment);
    if (found != open_.end() && (found->second.pending > 0 || found->second.sealing)) {
      throw Error(Code::Busy, "segment " + std::to_string(segment) + " is being written to");
    }
    open_.erase(segment);
  }
  const uint64_t place = superblock().placeOf(segment);
  AlignedBuffer buffer;
  uint8_t* const page = buffer.reserve(kPageBytes);
  std::memset(page, 0, kPageBytes);
  move(true, page, kPageBytes, place);
  const uint64_t rest = superblock().segmentBytes - kSegmentHeaderBytes;
  if (file_->discard(place + kSegmentHeaderBytes, rest)) {
    counters_.bytesDiscarded.fetch_add(rest, std::memory_order_relaxed);
  }
}

void SegmentDrive::beginAppend(const Life& life, uint64_t offset, const RecordShape& shape, uint32_t count) {
  const auto fail = [](const std::string& message) { throw Error(Code::InvalidArgument, message); };
  checkedSegment(life.segment);
  if (count == 0 || count > kRecordBlocksMax) fail("a record holds 1 to 65536 blocks");
  if (life.sequence > kNumberMax) fail("sequence must be at most 2^53");
  const std::lock_guard lock(mutex_);
  OpenSegment& segment = openSegment(life);
  if (offset % kPageBytes != 0 || offset < segment.nextOffset) {
    fail("offset must be a multiple of 4096 and not before " + std::to_string(segment.nextOffset) +
         ", where the last record ends");
  }
  const uint64_t segmentBytes = superblock().segmentBytes;
  const uint64_t body = segment.bodyBytesMax + shape.entriesEnd(count);
  const uint64_t needed = shape.recordBytes(count) + summaryBytes(body);
  if (offset > segmentBytes || needed > segmentBytes - offset) {
    fail("the record, with the summary after it, does not fit behind offset " + std::to_string(offset));
  }
  segment.nextOffset = offset + shape.recordBytes(count);
  segment.bodyBytesMax = body;
  segment.pending++;
}

void SegmentDrive::endAppend(const Life& life, const RecordShape& shape, uint32_t count, const uint8_t* header) {
  const std::lock_guard lock(mutex_);
  OpenSegment& segment = open_[life.segment];
  segment.pending--;
  if (header == nullptr) return;
  segment.body.insert(segment.body.end(), header, header + shape.entriesEnd(count));
  segment.records++;
}

}  // namespace kvferry
