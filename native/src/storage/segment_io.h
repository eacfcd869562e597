// Appends to and reads from a segment drive as operations: each unit is a run of blocks that lie side by side.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "storage/segment_drive.h"
#include "engine/work.h"
#include "region/region.h"

namespace kvferry {

/** Bytes that a unit moves at most, unless one block is larger: enough for a drive's full speed, little enough to spread. */
constexpr uint64_t kUnitBytesMax = 1024 * 1024;

/** Blocks of one namespace and where they are in memory. Everything is copied but the memory itself. */
struct SegmentBlocks {
  RecordShape shape;
  /** Packed, count × keyBytes. */
  std::vector<uint8_t> keys;
  uint8_t* memory = nullptr;
  uint64_t rowBytes = 0;
  std::vector<uint32_t> slots;
  /** That the memory lies in, if any. */
  std::shared_ptr<Region> region;

  uint32_t count() const { return static_cast<uint32_t>(slots.size()); }
  uint8_t* row(uint32_t i) const { return memory + slots[i] * rowBytes; }
  const uint8_t* key(uint32_t i) const { return keys.data() + size_t{i} * shape.keyBytes; }
};

/** Throws Error INVALID_ARGUMENT unless keys and blocks have sizes that a record can name. */
void checkShape(const RecordShape& shape);

/** Writes one record: the payloads in any order, then the header. */
class AppendOperation final : public IoOperation {
 public:
  /** Throws Error INVALID_ARGUMENT. `finish` must be called once, after all units. */
  AppendOperation(std::shared_ptr<SegmentDrive> drive, const Life& life, uint64_t offset, SegmentBlocks blocks);

  uint32_t units() const { return units_; }
  bool begin(uint32_t unit, Transfer& transfer) noexcept override;
  void meanwhile(uint32_t unit, Transfer& transfer) noexcept override;
  void complete(uint32_t unit, Transfer& transfer) noexcept override;
  void skip(uint32_t unit, Code why) noexcept;
  /** The outcome of all blocks. */
  BlockOutcome finish() noexcept;
  const std::vector<uint32_t>& checksums() const { return checksums_; }

 private:
  void fail(Code why);
  /** A unit's payloads are done, or will not be; true if the header is to be written now. */
  bool unitEnded();
  void beginPayloads(uint32_t unit, Transfer& transfer);
  uint32_t firstOf(uint32_t unit) const { return unit * blocksPerUnit_; }
  uint32_t endOf(uint32_t unit) const { return std::min(blocks_.count(), firstOf(unit) + blocksPerUnit_); }

  const std::shared_ptr<SegmentDrive> drive_;
  const Life life_;
  const uint64_t offset_;
  const SegmentBlocks blocks_;
  const uint32_t digestChecksum_;
  uint32_t blocksPerUnit_ = 1;
  uint32_t units_ = 0;
  AlignedBuffer header_;
  std::vector<uint32_t> checksums_;
  std::atomic<uint32_t> unitsLeft_{0};
  std::atomic<Code> failed_{Code::None};
  bool written_ = false;
};

/** Loads blocks and verifies each; one that does not verify is read again into memory of our own before it is called corrupt. */
class ReadOperation final : public IoOperation {
 public:
  /** Throws Error INVALID_ARGUMENT when a place is outside the drive. */
  ReadOperation(std::shared_ptr<SegmentDrive> drive, SegmentBlocks blocks, std::vector<uint32_t> offsets4k,
                std::vector<uint32_t> checksums);

  uint32_t units() const { return static_cast<uint32_t>(runs_.size()); }
  bool begin(uint32_t unit, Transfer& transfer) noexcept override;
  void meanwhile(uint32_t, Transfer&) noexcept override {}
  void complete(uint32_t unit, Transfer& transfer) noexcept override;
  void skip(uint32_t unit, Code why) noexcept;
  const std::vector<BlockOutcome>& outcomes() const { return outcomes_; }

 private:
  struct Run {
    uint32_t first;
    uint32_t count;
  };
  /** Blocks that lie side by side on the drive, in order. */
  void makeRuns();
  bool verifies(uint32_t block, const uint8_t* payload) const;
  bool needsBounce(const Run& run) const;
  void beginRun(const Run& run, Transfer& transfer);
  void completeRun(const Run& run, Transfer& transfer);
  void completeAgain(uint32_t block, Transfer& transfer);
  bool regionLost(int64_t result) const;

  const std::shared_ptr<SegmentDrive> drive_;
  const SegmentBlocks blocks_;
  const std::vector<uint32_t> offsets4k_;
  const std::vector<uint32_t> checksums_;
  const uint32_t digestChecksum_;
  std::vector<Run> runs_;
  std::vector<BlockOutcome> outcomes_;
};

}  // namespace kvferry
