#include "storage/segment_io.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>

#include "checksum/crc32c.h"

namespace kvferry {
namespace {

/** Stages of a unit. */
constexpr uint32_t kPayloads = 0;
constexpr uint32_t kHeader = 1;
constexpr uint32_t kAgain = 1;
constexpr uint32_t kDone = 2;

alignas(kPageBytes) constexpr uint8_t kZeros[kPageBytes] = {};

uint64_t nowMs() {
  using namespace std::chrono;
  return static_cast<uint64_t>(duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count());
}

/** Whether O_DIRECT can move all of a unit's blocks where they are. */
bool aligned(const SegmentBlocks& blocks) {
  return isPageAligned(blocks.memory) && blocks.rowBytes % kPageBytes == 0 && blocks.shape.blockBytes % kPageBytes == 0;
}

void useFile(Transfer& transfer, SegmentDrive& drive) {
  transfer.file = drive.file().file();
  transfer.bufferedFile = drive.file().bufferedFile();
  transfer.faults = &drive.faults();
}

}  // namespace

void checkShape(const RecordShape& shape) {
  if (shape.keyBytes < kKeyBytesMin || shape.keyBytes > kKeyBytesMax) {
    throw Error(Code::InvalidArgument, "keyBytes must be 5 to 128");
  }
  if (shape.blockBytes == 0 || shape.blockBytes > kSegmentBlockBytesMax) {
    throw Error(Code::InvalidArgument, "blockBytes must be 1 to 2^40");
  }
}

AppendOperation::AppendOperation(std::shared_ptr<SegmentDrive> drive, const Life& life, uint64_t offset,
                                 SegmentBlocks blocks)
    : drive_(std::move(drive)),
      life_(life),
      offset_(offset),
      blocks_(std::move(blocks)),
      digestChecksum_(crc32c(blocks_.shape.namespaceDigest.data(), kDigestBytes)),
      checksums_(blocks_.count()) {
  if (blocks_.count() == 0) return;
  const RecordShape& shape = blocks_.shape;
  checkShape(shape);
  if (shape.blockBytes % kPageBytes == 0) {
    blocksPerUnit_ = static_cast<uint32_t>(std::clamp<uint64_t>(kUnitBytesMax / shape.blockBytes, 1, kTransferPartsMax));
  }
  units_ = (blocks_.count() + blocksPerUnit_ - 1) / blocksPerUnit_;
  unitsLeft_.store(units_, std::memory_order_relaxed);
  drive_->beginAppend(life_, offset_, shape, blocks_.count());
  try {
    header_.reserve(shape.headerBytes(blocks_.count()));
  } catch (...) {
    drive_->endAppend(life_, shape, blocks_.count(), nullptr);
    throw;
  }
}

void AppendOperation::fail(Code why) {
  Code none = Code::None;
  failed_.compare_exchange_strong(none, why, std::memory_order_acq_rel);
}

bool AppendOperation::unitEnded() {
  const bool last = unitsLeft_.fetch_sub(1, std::memory_order_acq_rel) == 1;
  return last && failed_.load(std::memory_order_acquire) == Code::None;
}

void AppendOperation::skip(uint32_t, Code why) noexcept {
  fail(why);
  unitEnded();
}

bool AppendOperation::begin(uint32_t unit, Transfer& transfer) noexcept {
  const RecordShape& shape = blocks_.shape;
  const uint64_t place = drive_->superblock().placeOf(life_.segment) + offset_;
  if (transfer.stage == kPayloads) {
    if (blocks_.region && blocks_.region->gone()) fail(Code::RegionGone);
    if (failed_.load(std::memory_order_acquire) != Code::None) {
      unitEnded();
      return false;
    }
    try {
      transfer.start(true, static_cast<int64_t>(place + shape.headerBytes(blocks_.count()) +
                                                firstOf(unit) * shape.paddedBytes()));
      beginPayloads(unit, transfer);
    } catch (const std::bad_alloc&) {
      fail(Code::Internal);
      unitEnded();
      return false;
    }
  } else if (transfer.stage == kHeader) {
    const uint64_t bytes = shape.headerBytes(blocks_.count());
    uint8_t* const header = header_.reserve(bytes);
    const RecordHeader facts{life_, shape, static_cast<uint32_t>(offset_ / kPageBytes), blocks_.count(), nowMs()};
    writeRecordHeader(header, drive_->superblock().uuid, facts, checksums_.data(), blocks_.keys.data());
    transfer.start(true, static_cast<int64_t>(place));
    transfer.add(header, bytes);
  } else {
    return false;
  }
  useFile(transfer, *drive_);
  return true;
}

void AppendOperation::beginPayloads(uint32_t unit, Transfer& transfer) {
  const uint64_t blockBytes = blocks_.shape.blockBytes;
  const uint64_t padding = blocks_.shape.paddedBytes() - blockBytes;
  const uint32_t first = firstOf(unit);
  const uint32_t end = endOf(unit);
  if (!drive_->file().direct() || aligned(blocks_)) {
    for (uint32_t i = first; i < end; i++) {
      transfer.add(blocks_.row(i), blockBytes);
      if (padding != 0) transfer.add(const_cast<uint8_t*>(kZeros), padding);
    }
    transfer.region = blocks_.region && padding == 0 ? &blocks_.region : nullptr;
    return;
  }
  uint8_t* to = transfer.bounce.reserve((end - first) * blocks_.shape.paddedBytes());
  transfer.add(to, (end - first) * blocks_.shape.paddedBytes());
  for (uint32_t i = first; i < end; i++, to += blockBytes + padding) {
    std::memcpy(to, blocks_.row(i), blockBytes);
    std::memset(to + blockBytes, 0, padding);
  }
}

void AppendOperation::meanwhile(uint32_t unit, Transfer& transfer) noexcept {
  if (transfer.stage != kPayloads) return;
  const RecordShape& shape = blocks_.shape;
  for (uint32_t i = firstOf(unit); i < endOf(unit); i++) {
    const uint32_t seed = crc32c(blocks_.key(i), shape.keyBytes, digestChecksum_);
    checksums_[i] = crc32c(blocks_.row(i), shape.blockBytes, seed);
  }
}

void AppendOperation::complete(uint32_t unit, Transfer& transfer) noexcept {
  const RecordShape& shape = blocks_.shape;
  const int64_t result = transfer.result();
  if (result > 0) drive_->counters().bytesWritten.fetch_add(static_cast<uint64_t>(result), std::memory_order_relaxed);
  if (transfer.stage == kHeader) {
    transfer.stage = kDone;
    if (result < 0) {
      fail(codeOfErrno(static_cast<int>(-result)));
    } else {
      written_ = true;
    }
    return;
  }
  Region* const region = blocks_.region.get();
  if (result == -EFAULT && region != nullptr) region->markGone();
  const uint64_t expected = (endOf(unit) - firstOf(unit)) * shape.paddedBytes();
  if (region != nullptr && region->gone()) {
    fail(Code::RegionGone);
  } else if (result < 0) {
    fail(codeOfErrno(static_cast<int>(-result)));
  } else if (static_cast<uint64_t>(result) != expected) {
    fail(Code::Io);
  }
  transfer.stage = unitEnded() ? kHeader : kDone;
}

BlockOutcome AppendOperation::finish() noexcept {
  if (blocks_.count() == 0) return {Outcome::Stored, Code::None};
  const RecordShape& shape = blocks_.shape;
  drive_->endAppend(life_, shape, blocks_.count(),
                    written_ ? header_.reserve(shape.headerBytes(blocks_.count())) : nullptr);
  if (!written_) return failed(failed_.load(std::memory_order_acquire));
  drive_->counters().bytesStored.fetch_add(blocks_.count() * shape.blockBytes, std::memory_order_relaxed);
  return {Outcome::Stored, Code::None};
}

ReadOperation::ReadOperation(std::shared_ptr<SegmentDrive> drive, SegmentBlocks blocks, std::vector<uint32_t> offsets4k,
                             std::vector<uint32_t> checksums)
    : drive_(std::move(drive)),
      blocks_(std::move(blocks)),
      offsets4k_(std::move(offsets4k)),
      checksums_(std::move(checksums)),
      digestChecksum_(crc32c(blocks_.shape.namespaceDigest.data(), kDigestBytes)),
      outcomes_(blocks_.count()) {
  checkShape(blocks_.shape);
  const uint64_t padded = blocks_.shape.paddedBytes();
  const uint64_t end = drive_->superblock().driveBytes();
  for (const uint32_t place : offsets4k_) {
    const uint64_t offset = uint64_t{place} * kPageBytes;
    if (offset < kDriveHeaderBytes || offset > end || padded > end - offset) {
      throw Error(Code::InvalidArgument, "a block at page " + std::to_string(place) + " is not on this drive");
    }
  }
  makeRuns();
}

void ReadOperation::makeRuns() {
  const uint64_t blockBytes = blocks_.shape.blockBytes;
  const bool whole = blockBytes % kPageBytes == 0;
  const uint32_t most = !whole ? 1 : static_cast<uint32_t>(std::clamp<uint64_t>(kUnitBytesMax / blockBytes, 1, kTransferPartsMax));
  const auto pages = static_cast<uint32_t>(blocks_.shape.paddedBytes() / kPageBytes);
  runs_.reserve(blocks_.count() / most + 1);
  for (uint32_t i = 0; i < blocks_.count(); i++) {
    if (!runs_.empty() && runs_.back().count < most && offsets4k_[i] - offsets4k_[i - 1] == pages) {
      runs_.back().count++;
    } else {
      runs_.push_back({i, 1});
    }
  }
}

void ReadOperation::skip(uint32_t unit, Code why) noexcept {
  const Run& run = runs_[unit];
  for (uint32_t i = run.first; i < run.first + run.count; i++) outcomes_[i] = failed(why);
}

bool ReadOperation::verifies(uint32_t block, const uint8_t* payload) const {
  const uint32_t seed = crc32c(blocks_.key(block), blocks_.shape.keyBytes, digestChecksum_);
  return crc32c(payload, blocks_.shape.blockBytes, seed) == checksums_[block];
}

bool ReadOperation::needsBounce(const Run&) const { return drive_->file().direct() && !aligned(blocks_); }

bool ReadOperation::begin(uint32_t unit, Transfer& transfer) noexcept {
  const Run& run = runs_[unit];
  try {
    if (transfer.stage == kPayloads) {
      if (blocks_.region && blocks_.region->gone()) {
        skip(unit, Code::RegionGone);
        return false;
      }
      beginRun(run, transfer);
      return true;
    }
    // Blocks that did not come out well are read again, one by one.
    while (transfer.cursor < run.count && outcomes_[run.first + transfer.cursor].outcome == Outcome::Loaded) {
      transfer.cursor++;
    }
    if (transfer.cursor == run.count || (blocks_.region && blocks_.region->gone())) return false;
    const uint32_t block = run.first + transfer.cursor;
    transfer.start(false, int64_t{offsets4k_[block]} * static_cast<int64_t>(kPageBytes));
    transfer.add(transfer.bounce.reserve(blocks_.shape.paddedBytes()), blocks_.shape.paddedBytes());
    useFile(transfer, *drive_);
    return true;
  } catch (const std::bad_alloc&) {
    skip(unit, Code::Internal);
    return false;
  }
}

void ReadOperation::beginRun(const Run& run, Transfer& transfer) {
  transfer.start(false, int64_t{offsets4k_[run.first]} * static_cast<int64_t>(kPageBytes));
  useFile(transfer, *drive_);
  if (needsBounce(run)) {
    const size_t bytes = run.count * blocks_.shape.paddedBytes();
    transfer.add(transfer.bounce.reserve(bytes), bytes);
    return;
  }
  for (uint32_t i = run.first; i < run.first + run.count; i++) transfer.add(blocks_.row(i), blocks_.shape.blockBytes);
  transfer.region = blocks_.region ? &blocks_.region : nullptr;
}

void ReadOperation::complete(uint32_t unit, Transfer& transfer) noexcept {
  const Run& run = runs_[unit];
  const int64_t result = transfer.result();
  if (result > 0) drive_->counters().bytesRead.fetch_add(static_cast<uint64_t>(result), std::memory_order_relaxed);
  if (transfer.stage == kPayloads) {
    completeRun(run, transfer);
    transfer.stage = kAgain;
  } else {
    completeAgain(run.first + transfer.cursor, transfer);
    transfer.cursor++;
  }
  if (!regionLost(result)) return;
  skip(unit, Code::RegionGone);
  transfer.stage = kAgain;
  transfer.cursor = run.count;
}

bool ReadOperation::regionLost(int64_t result) const {
  Region* const region = blocks_.region.get();
  if (region == nullptr) return false;
  if (result == -EFAULT) region->markGone();
  return region->gone();
}

void ReadOperation::completeRun(const Run& run, Transfer& transfer) {
  const uint64_t blockBytes = blocks_.shape.blockBytes;
  const bool bounced = needsBounce(run);
  const uint64_t each = bounced ? blocks_.shape.paddedBytes() : blockBytes;
  const int64_t result = transfer.result();
  const uint64_t got = result < 0 ? 0 : static_cast<uint64_t>(result);
  const uint8_t* bounce = bounced ? transfer.bounce.reserve(run.count * each) : nullptr;
  for (uint32_t n = 0; n < run.count; n++) {
    const uint32_t block = run.first + n;
    if (got < (n + 1) * each) {
      outcomes_[block] = failed(result < 0 ? codeOfErrno(static_cast<int>(-result)) : Code::Io);
      continue;
    }
    uint8_t* const row = blocks_.row(block);
    const uint8_t* const payload = bounced ? bounce + n * each : row;
    if (!verifies(block, payload)) {
      outcomes_[block] = {Outcome::Corrupt, Code::Corrupt};
      continue;
    }
    if (bounced) std::memcpy(row, payload, blockBytes);
    outcomes_[block] = {Outcome::Loaded, Code::None};
    drive_->counters().bytesLoaded.fetch_add(blockBytes, std::memory_order_relaxed);
  }
}

void ReadOperation::completeAgain(uint32_t block, Transfer& transfer) {
  const uint64_t blockBytes = blocks_.shape.blockBytes;
  const int64_t result = transfer.result();
  const uint8_t* const bounce = transfer.bounce.reserve(blocks_.shape.paddedBytes());
  if (result < 0) {
    outcomes_[block] = failed(codeOfErrno(static_cast<int>(-result)));
  } else if (static_cast<uint64_t>(result) < blockBytes) {
    outcomes_[block] = failed(Code::Io);
  } else if (verifies(block, bounce)) {
    std::memcpy(blocks_.row(block), bounce, blockBytes);
    outcomes_[block] = {Outcome::Loaded, Code::None};
    drive_->counters().bytesLoaded.fetch_add(blockBytes, std::memory_order_relaxed);
  } else {
    outcomes_[block] = {Outcome::Corrupt, Code::Corrupt};
    drive_->counters().corruptBlocks.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace kvferry
