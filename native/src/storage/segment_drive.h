// A log of records on one drive: docs of the bytes are in segment_format.h. What blocks here says so; appends and reads are operations
// that an engine runs. Thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "storage/drive_file.h"
#include "storage/segment_format.h"

namespace kvferry {

struct SegmentDriveCounters {
  std::atomic<uint64_t> bytesWritten{0};
  std::atomic<uint64_t> bytesRead{0};
  std::atomic<uint64_t> bytesStored{0};
  std::atomic<uint64_t> bytesLoaded{0};
  std::atomic<uint64_t> corruptBlocks{0};
  std::atomic<uint64_t> bytesDiscarded{0};
};

/** A segment that takes records: what its summary will hold, and where the next record may begin. */
struct OpenSegment {
  Life life;
  uint64_t nextOffset = kSegmentHeaderBytes;
  /** Of all records begun, whether they succeed or not: their summary always fits. */
  uint64_t bodyBytesMax = 0;
  /** Appends under way. */
  uint32_t pending = 0;
  bool sealing = false;
  std::vector<uint8_t> body;
  uint32_t records = 0;
};

/** What recovery found in some segments. Records point into `buffers`. */
struct RecoveredPart {
  struct Segment {
    Life life;
    uint64_t usedBytes = kSegmentHeaderBytes;
    bool sealed = false;
    std::vector<Record> records;
  };
  std::vector<Segment> segments;
  std::vector<AlignedBuffer> buffers;
  uint32_t damagedSegments = 0;
  uint32_t damagedRecords = 0;
};

class SegmentDrive {
 public:
  /** Blocks. Throws Error. */
  static std::shared_ptr<SegmentDrive> open(DriveOptions options);

  /** Begins a life of a segment. Blocks. Throws Error. */
  void begin(const Life& life);
  /** Writes the summary. Blocks. Throws Error. */
  void seal(const Life& life);
  /** Ends the segment's life and gives its room back. Blocks. Throws Error. */
  void discard(uint32_t segment);

  /** Looks at segments [first, first + count); one that cannot be read counts as damaged. Blocks. For any number of threads at a time. */
  RecoveredPart recover(uint32_t first, uint32_t count);
  /** Takes up the unsealed segments of what `recover` found, so that they can be appended to and sealed. Throws Error BUSY when a
   * segment has been begun before. */
  void takeUp(const RecoveredPart& part);

  /** Room for a record of a shape that `checkShape` lets pass: from here on `endAppend` is owed. Throws Error INVALID_ARGUMENT when it may not be there. */
  void beginAppend(const Life& life, uint64_t offset, const RecordShape& shape, uint32_t count);
  /** `header`: of the record that is on the drive now, or nullptr if it failed. */
  void endAppend(const Life& life, const RecordShape& shape, uint32_t count, const uint8_t* header);

  const DriveFile& file() const { return *file_; }
  const Superblock& superblock() const { return file_->superblock(); }
  const TransferFaults& faults() const { return options_.faults; }
  SegmentDriveCounters& counters() { return counters_; }

 private:
  explicit SegmentDrive(DriveOptions options) : options_(std::move(options)) {}
  uint32_t checkedSegment(uint32_t segment) const;
  OpenSegment& openSegment(const Life& life);
  /** Whole pages; throws Error. */
  void move(bool writing, uint8_t* memory, uint64_t bytes, uint64_t offset);

  // segment_recover.cc
  void recoverSegment(RecoveredPart& part, uint32_t index);
  bool recoverSummary(RecoveredPart& part, RecoveredPart::Segment& segment);
  void walk(RecoveredPart& part, RecoveredPart::Segment& segment);
  bool readRecordAt(RecoveredPart& part, RecoveredPart::Segment& segment, const uint8_t* page, uint64_t offset);

  const DriveOptions options_;
  std::unique_ptr<DriveFile> file_;
  SegmentDriveCounters counters_;
  std::mutex mutex_;
  std::unordered_map<uint32_t, OpenSegment> open_;
  /** The newest epoch known of each segment. */
  std::vector<uint64_t> epochs_;
};

}  // namespace kvferry
