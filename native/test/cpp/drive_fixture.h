// A segment drive in a folder of its own, and both engines that can run its operations.
#pragma once

#include <condition_variable>
#include <cstring>
#include <mutex>

#include "storage/recovered.h"
#include "storage/segment_io.h"
#include "engine/ring_engine.h"
#include "fixture.h"

namespace kvferry::test {

constexpr uint64_t kSegment = 1024 * 1024;
constexpr uint32_t kKeyBytes = 36;

enum class Kind { Threads, Ring };

/** Waits for a batch that has been submitted. */
class Waiting {
 public:
  void done() {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

class AppendWork : public Work {
 public:
  AppendWork(std::unique_ptr<AppendOperation> operation)
      : Work(Priority::Store, operation->units()), operation(std::move(operation)) {}
  IoOperation* io() noexcept override { return operation.get(); }
  void run(uint32_t unit, ThreadState& state) noexcept override { runBlocking(*operation, unit, state.transfer); }
  void skip(uint32_t unit, Code why) noexcept override { operation->skip(unit, why); }
  void finish() noexcept override {
    outcome = operation->finish();
    waiting.done();
  }
  const std::unique_ptr<AppendOperation> operation;
  BlockOutcome outcome;
  Waiting waiting;
};

class ReadWork : public Work {
 public:
  ReadWork(std::unique_ptr<ReadOperation> operation)
      : Work(Priority::Load, operation->units()), operation(std::move(operation)) {}
  IoOperation* io() noexcept override { return operation.get(); }
  void run(uint32_t unit, ThreadState& state) noexcept override { runBlocking(*operation, unit, state.transfer); }
  void skip(uint32_t unit, Code why) noexcept override { operation->skip(unit, why); }
  void finish() noexcept override { waiting.done(); }
  const std::unique_ptr<ReadOperation> operation;
  Waiting waiting;
};

/** Where a block is, and what it was. */
struct Placed {
  uint32_t offset4k;
  uint32_t checksum;
  uint32_t number;  // its key is keyOf(number), its bytes are of that seed
};

class Rig {
 public:
  explicit Rig(Kind kind, Direct direct = Direct::Auto, uint64_t blockBytes = 16384, TransferFaults faults = nullptr)
      : kind_(kind), scratch_(Place::Disk) {
    options.path = scratch_ / "";
    options.segmentBytes = kSegment;
    options.segments = 4;
    options.direct = direct;
    options.faults = std::move(faults);
    shape.namespaceDigest.fill(0xd1);
    shape.keyBytes = kKeyBytes;
    shape.blockBytes = blockBytes;
    open();
  }
  ~Rig() { close(); }

  void open() {
    drive = SegmentDrive::open(options);
    if (kind_ == Kind::Threads) {
      engine = std::make_unique<Engine>(EngineOptions{4, 10'000});
    } else {
      engine = std::make_unique<RingEngine>(RingOptions{2, 8, 10'000});
    }
  }
  void close() {
    engine.reset();
    drive.reset();
  }
  std::string path() const { return scratch_ / "segments.kvs"; }

  /** The bytes of a block. */
  void fill(uint8_t* row, uint32_t number) const {
    std::mt19937_64 random(number);
    for (uint64_t i = 0; i + 8 <= shape.blockBytes; i += 8) {
      const uint64_t word = random();
      std::memcpy(row + i, &word, 8);
    }
    for (uint64_t i = shape.blockBytes / 8 * 8; i < shape.blockBytes; i++) row[i] = static_cast<uint8_t>(random());
  }

  SegmentBlocks blocksOf(const std::vector<uint32_t>& numbers, uint8_t* memory, uint64_t rowBytes) const {
    SegmentBlocks blocks;
    blocks.shape = shape;
    blocks.memory = memory;
    blocks.rowBytes = rowBytes;
    blocks.region = Region::find(memory, 1);
    for (uint32_t i = 0; i < numbers.size(); i++) {
      const Key key = keyOf(numbers[i]);
      blocks.keys.insert(blocks.keys.end(), key.begin(), key.end());
      blocks.slots.push_back(i);
    }
    return blocks;
  }

  /** Appends blocks `first` … `first + count - 1` from memory that is `shift` bytes off a page. */
  BlockOutcome append(const Life& life, uint64_t offset, uint32_t first, uint32_t count, size_t shift = 0) {
    const uint64_t rowBytes = roundUpToPage(shape.blockBytes);
    Memory memory(count * rowBytes + kPageBytes);
    std::vector<uint32_t> numbers;
    for (uint32_t i = 0; i < count; i++) {
      numbers.push_back(first + i);
      fill(memory.data() + shift + i * rowBytes, first + i);
    }
    const auto work = std::make_shared<AppendWork>(std::make_unique<AppendOperation>(
        drive, life, offset, blocksOf(numbers, memory.data() + shift, rowBytes)));
    CHECK_EQ(engine->submit(work), Submitted::Accepted);
    work->waiting.wait();
    if (work->outcome == kStored) {
      const uint64_t start = drive->superblock().placeOf(life.segment) + offset + shape.headerBytes(count);
      for (uint32_t i = 0; i < count; i++) {
        const auto place = static_cast<uint32_t>((start + i * shape.paddedBytes()) / kPageBytes);
        placed.push_back({place, work->operation->checksums()[i], first + i});
      }
    }
    return work->outcome;
  }

  /** Reads all of `what`; the bytes of what is LOADED must be right. */
  std::vector<BlockOutcome> read(const std::vector<Placed>& what, size_t shift = 0) {
    const uint64_t rowBytes = roundUpToPage(shape.blockBytes);
    Memory memory(what.size() * rowBytes + kPageBytes);
    std::memset(memory.data(), 0, memory.size());
    std::vector<uint32_t> numbers, offsets, checksums;
    for (const Placed& each : what) {
      numbers.push_back(each.number);
      offsets.push_back(each.offset4k);
      checksums.push_back(each.checksum);
    }
    const auto work = std::make_shared<ReadWork>(std::make_unique<ReadOperation>(
        drive, blocksOf(numbers, memory.data() + shift, rowBytes), offsets, checksums));
    CHECK_EQ(engine->submit(work), Submitted::Accepted);
    work->waiting.wait();
    Memory expected(rowBytes);
    for (size_t i = 0; i < what.size(); i++) {
      if (work->operation->outcomes()[i] != kLoaded) continue;
      fill(expected.data(), what[i].number);
      CHECK(std::memcmp(expected.data(), memory.data() + shift + i * rowBytes, shape.blockBytes) == 0);
    }
    return work->operation->outcomes();
  }

  bool allLoaded(const std::vector<Placed>& what, size_t shift = 0) {
    for (const BlockOutcome& outcome : read(what, shift)) {
      if (outcome != kLoaded) return false;
    }
    return true;
  }

  /** What recovery finds, as places; `part` keeps what it found. */
  std::vector<Placed> recover(RecoveredPart& part) {
    std::vector<RecoveredPart> parts;
    parts.push_back(drive->recover(0, static_cast<uint32_t>(drive->superblock().segments)));
    std::vector<Placed> found;
    for (const RecoveredNamespace& group : groupRecords(parts)) {
      std::vector<uint8_t> keys(group.blocks * group.shape.keyBytes);
      std::vector<uint32_t> offsets(group.blocks), checksums(group.blocks);
      std::vector<double> sequences(group.blocks);
      group.copyTo(drive->superblock(), keys.data(), offsets.data(), checksums.data(), sequences.data());
      CHECK(std::is_sorted(sequences.begin(), sequences.end()));
      for (uint64_t i = 0; i < group.blocks; i++) {
        found.push_back({offsets[i], checksums[i], numberOf(keys.data() + i * group.shape.keyBytes)});
      }
    }
    part = std::move(parts[0]);
    return found;
  }

  /** The number whose key this is; UINT32_MAX if it is none that was appended. */
  uint32_t numberOf(const uint8_t* key) const {
    for (const Placed& each : placed) {
      const Key expected = keyOf(each.number);
      if (std::memcmp(expected.data(), key, expected.size()) == 0) return each.number;
    }
    return UINT32_MAX;
  }

  /** The drive's bytes, as another process would see or change them. */
  std::vector<uint8_t> bytes(uint64_t offset, size_t count) const {
    std::vector<uint8_t> result(count);
    std::ifstream file(path(), std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    file.read(reinterpret_cast<char*>(result.data()), static_cast<std::streamsize>(count));
    return result;
  }
  void overwrite(uint64_t offset, const std::vector<uint8_t>& bytes) const {
    std::fstream file(path(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }

  DriveOptions options;
  RecordShape shape;
  std::shared_ptr<SegmentDrive> drive;
  std::unique_ptr<Executor> engine;
  std::vector<Placed> placed;

 private:
  const Kind kind_;
  const Scratch scratch_;
};

/** The kinds of engine that work here. */
inline std::vector<Kind> kinds() {
  std::vector<Kind> result{Kind::Threads};
  try {
    RingEngine probe({1, 1, 1});
    result.push_back(Kind::Ring);
  } catch (const Error&) {
  }
  return result;
}

inline bool same(const std::vector<Placed>& a, const std::vector<Placed>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](const Placed& x, const Placed& y) {
           return x.offset4k == y.offset4k && x.checksum == y.checksum && x.number == y.number;
         });
}

}  // namespace kvferry::test
