// A drive gives back what it took, on either engine; and whatever is damaged, torn, old or short, it never gives a wrong block.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <thread>

#include "drive_fixture.h"

namespace kvferry::test {
namespace {

Code codeOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code;
  }
  return Code::None;
}

}  // namespace

TEST(drives_give_back_what_was_appended) {
  for (const Kind kind : kinds()) {
    for (const Direct direct : {Direct::Auto, Direct::Off}) {
      for (const uint64_t blockBytes : {uint64_t{1}, uint64_t{4096}, uint64_t{5000}, uint64_t{16384}, uint64_t{200'000}}) {
        for (const size_t shift : {size_t{0}, size_t{3}}) {
          Rig rig(kind, direct, blockBytes);
          const Life life{1, 1, 1};
          rig.drive->begin(life);
          CHECK_EQ(rig.append(life, 4096, 0, 3, shift), kStored);
          CHECK(rig.allLoaded(rig.placed, shift));
          CHECK(rig.allLoaded({rig.placed[2], rig.placed[0]}, shift));
          CHECK_EQ(rig.drive->counters().bytesStored.load(), 3 * blockBytes);
          CHECK_EQ(rig.drive->counters().bytesLoaded.load(), 5 * blockBytes);
        }
      }
    }
  }
}

TEST(recovery_finds_what_was_appended_sealed_or_not) {
  for (const Kind kind : kinds()) {
    for (const bool sealed : {true, false}) {
      Rig rig(kind);
      for (uint32_t segment : {2u, 0u}) {
        Life life{segment, 4 + segment, 10 * (3 - segment)};
        rig.drive->begin(life);
        uint64_t offset = kSegmentHeaderBytes;
        for (const uint32_t count : {1u, 9u, 20u}) {
          life.sequence++;
          CHECK_EQ(rig.append(life, offset, segment * 100 + count, count), kStored);
          offset += rig.shape.recordBytes(count);
        }
        if (sealed) rig.drive->seal(life);
      }
      // Later by sequence, although at an earlier place.
      rig.close();
      rig.open();
      RecoveredPart part;
      const std::vector<Placed> found = rig.recover(part);
      CHECK_EQ(part.damagedRecords + part.damagedSegments, 0u);
      CHECK(same(found, rig.placed));
      CHECK_EQ(part.segments.size(), 2u);
      CHECK(part.segments[0].life.segment == 0 && part.segments[0].life.epoch == 4 && part.segments[0].sealed == sealed);
      CHECK(rig.allLoaded(found));
      // It can go on where it was.
      rig.drive->takeUp(part);
      Life life = part.segments[0].life;
      life.sequence = 1000;
      if (sealed) {
        CHECK_EQ(codeOf([&] { rig.append(life, part.segments[0].usedBytes, 900, 1); }), Code::InvalidArgument);
      } else {
        CHECK_EQ(rig.append(life, part.segments[0].usedBytes, 900, 2), kStored);
        rig.drive->seal(life);
        rig.close();
        rig.open();
        CHECK(same(rig.recover(part), rig.placed));
        CHECK(part.segments[0].sealed);
      }
    }
  }
}

TEST(recovery_of_many_namespaces_and_key_sizes_keeps_them_apart) {
  Rig rig(Kind::Threads, Direct::Auto, 4096);
  const Life life{0, 1, 1};
  rig.drive->begin(life);
  uint64_t offset = kSegmentHeaderBytes;
  for (uint8_t name = 0; name < 10; name++) {
    rig.shape.namespaceDigest.fill(name % 5);
    CHECK_EQ(rig.append({0, 1, name}, offset, name, 2), kStored);
    offset += rig.shape.recordBytes(2);
  }
  rig.drive->seal(life);
  std::vector<RecoveredPart> parts;
  parts.push_back(rig.drive->recover(0, 4));
  const auto groups = groupRecords(parts);
  CHECK_EQ(groups.size(), 5u);
  for (const auto& group : groups) CHECK_EQ(group.blocks, 4u);
}

TEST(no_flipped_byte_yields_a_wrong_block) {
  for (const bool sealed : {true, false}) {
    Rig rig(Kind::Threads, Direct::Auto, 8192);
    const Life life{0, 1, 1};
    rig.drive->begin(life);
    uint64_t offset = kSegmentHeaderBytes;
    for (uint32_t i = 0; i < 6; i++) {
      CHECK_EQ(rig.append({0, 1, 10 + i}, offset, 10 * i, 3), kStored);
      offset += rig.shape.recordBytes(3);
    }
    if (sealed) rig.drive->seal(life);
    const uint64_t start = rig.drive->superblock().placeOf(0);
    const std::vector<uint8_t> good = rig.bytes(start, kSegment);
    std::mt19937 random(9);
    size_t lost = 0;
    for (int round = 0; round < 150; round++) {
      // Half of the flips hit headers, which are few; the others hit anything.
      const uint64_t record = kSegmentHeaderBytes + random() % 6 * rig.shape.recordBytes(3);
      const uint64_t places[] = {random() % 4096, record + random() % 300, kSegment - 1 - random() % 4096,
                                 kSegment - 8192 + random() % 1300, random() % offset, random() % offset};
      const uint64_t at = places[random() % 6];
      std::vector<uint8_t> bytes = {static_cast<uint8_t>(good[at] ^ (1 + random() % 255))};
      rig.overwrite(start + at, bytes);
      RecoveredPart part;
      const std::vector<Placed> found = rig.recover(part);
      // What recovery names is what was appended; reading checks the bytes of all that is LOADED.
      for (const Placed& each : found) CHECK(each.number != UINT32_MAX);
      for (const BlockOutcome& outcome : rig.read(found)) CHECK(outcome == kLoaded || outcome == kCorrupt);
      lost += rig.placed.size() - found.size();
      rig.overwrite(start + at, {good[at]});
    }
    CHECK(lost > 0);
    RecoveredPart part;
    CHECK(same(rig.recover(part), rig.placed));
  }
}

TEST(random_pages_over_a_drive_yield_no_wrong_block_and_no_crash) {
  Rig rig(Kind::Threads, Direct::Auto, 8192);
  for (uint32_t segment = 0; segment < 4; segment++) {
    const Life life{segment, 1, segment};
    rig.drive->begin(life);
    uint64_t offset = kSegmentHeaderBytes;
    for (uint32_t i = 0; i < 5; i++) {
      CHECK_EQ(rig.append({segment, 1, 10 + i}, offset, 100 * segment + 10 * i, 3), kStored);
      offset += rig.shape.recordBytes(3);
    }
    if (segment % 2 == 0) rig.drive->seal(life);
  }
  const uint64_t start = rig.drive->superblock().placeOf(0);
  std::mt19937 random(4);
  for (int round = 0; round < 60; round++) {
    // Pages of the drive itself at other places: wrong order, wrong segment; sometimes noise.
    const uint64_t from = random() % (4 * kSegment / 4096) * 4096;
    const uint64_t to = random() % (4 * kSegment / 4096) * 4096;
    std::vector<uint8_t> page = rig.bytes(start + from, 4096);
    if (round % 5 == 0) {
      for (auto& byte : page) byte = static_cast<uint8_t>(random());
    }
    rig.overwrite(start + to, page);
    RecoveredPart part;
    const std::vector<Placed> found = rig.recover(part);
    for (const Placed& each : found) CHECK(each.number != UINT32_MAX);
    for (const BlockOutcome& outcome : rig.read(found)) CHECK(outcome == kLoaded || outcome == kCorrupt);
  }
}

TEST(a_record_torn_at_any_page_is_left_out_and_others_stay) {
  Rig rig(Kind::Threads, Direct::Auto, 8192);
  const Life life{0, 1, 1};
  rig.drive->begin(life);
  const uint64_t second = kSegmentHeaderBytes + rig.shape.recordBytes(3);
  const uint64_t third = second + rig.shape.recordBytes(3);
  CHECK_EQ(rig.append({0, 1, 2}, kSegmentHeaderBytes, 0, 3), kStored);
  CHECK_EQ(rig.append({0, 1, 3}, second, 10, 3), kStored);
  CHECK_EQ(rig.append({0, 1, 4}, third, 20, 3), kStored);
  const uint64_t start = rig.drive->superblock().placeOf(0);
  const std::vector<uint8_t> record = rig.bytes(start + second, third - second);
  for (uint64_t page = 0; page <= record.size() / 4096; page++) {
    // As if pages up to here had been written, in any order: the header is there or it is not.
    for (const bool header : {true, false}) {
      std::vector<uint8_t> torn = record;
      std::fill(torn.begin() + static_cast<long>(page * 4096), torn.end(), 0);
      if (header) {
        std::copy_n(record.begin(), 4096, torn.begin());
      } else {
        std::fill_n(torn.begin(), 4096, 0);
      }
      rig.overwrite(start + second, torn);
      RecoveredPart part;
      const std::vector<Placed> found = rig.recover(part);
      CHECK_EQ(found.size(), header ? 9u : 6u);
      size_t loaded = 0;
      for (const BlockOutcome& outcome : rig.read(found)) {
        CHECK(outcome == kLoaded || outcome == kCorrupt);
        loaded += outcome == kLoaded;
      }
      CHECK(loaded >= 6);
      CHECK_EQ(part.segments[0].usedBytes, third + rig.shape.recordBytes(3));
    }
  }
}

TEST(a_payload_cannot_pass_for_a_record) {
  Rig rig(Kind::Threads, Direct::Auto, 8192);
  const Life life{0, 1, 1};
  rig.drive->begin(life);
  CHECK_EQ(rig.append({0, 1, 2}, kSegmentHeaderBytes, 0, 1), kStored);
  // A client that knows everything but the drive's uuid stores a page that looks like a record of the place it will be at.
  const uint64_t second = kSegmentHeaderBytes + rig.shape.recordBytes(1);
  std::vector<uint8_t> forged(4096);
  RecordHeader facts{{0, 1, 99}, rig.shape, static_cast<uint32_t>((second + 4096) / 4096), 1, 0};
  const uint32_t checksum = 1;
  Uuid guess;
  guess.fill(1);
  writeRecordHeader(forged.data(), guess, facts, &checksum, keyOf(77).data());
  const uint64_t start = rig.drive->superblock().placeOf(0);
  rig.overwrite(start + second + 4096, forged);
  RecoveredPart part;
  CHECK_EQ(rig.recover(part).size(), 1u);
  writeRecordHeader(forged.data(), rig.drive->superblock().uuid, facts, &checksum, keyOf(77).data());
  rig.overwrite(start + second + 4096, forged);
  CHECK_EQ(rig.recover(part).size(), 2u);  // the test itself would see it
}

TEST(earlier_lives_of_a_segment_are_never_found_again) {
  for (const bool sealed : {true, false}) {
    Rig rig(Kind::Threads);
    Life life{0, 1, 1};
    rig.drive->begin(life);
    for (uint32_t i = 0; i < 5; i++) {
      CHECK_EQ(rig.append({0, 1, 2 + i}, kSegmentHeaderBytes + i * rig.shape.recordBytes(4), 10 * i, 4), kStored);
    }
    if (sealed) rig.drive->seal(life);
    rig.placed.clear();
    CHECK_EQ(codeOf([&] { rig.drive->begin({0, 1, 50}); }), Code::InvalidArgument);
    rig.drive->begin({0, 2, 50});
    RecoveredPart part;
    CHECK_EQ(rig.recover(part).size(), 0u);
    CHECK_EQ(part.segments[0].usedBytes, kSegmentHeaderBytes);
    CHECK_EQ(rig.append({0, 2, 51}, kSegmentHeaderBytes, 500, 2), kStored);
    CHECK(same(rig.recover(part), rig.placed));
    // A begun life that was lost with a power cut: the old header is back, the records are not those it knew.
    rig.drive->discard(0);
    CHECK_EQ(rig.recover(part).size(), 0u);
    CHECK_EQ(part.segments.size(), 0u);
    CHECK_EQ(codeOf([&] { rig.append({0, 2, 52}, 65536, 1, 1); }), Code::InvalidArgument);
    rig.drive->begin({0, 3, 60});
    CHECK_EQ(rig.append({0, 3, 61}, kSegmentHeaderBytes, 600, 2), kStored);
  }
}

TEST(short_transfers_of_a_drive_are_continued) {
  for (const Kind kind : kinds()) {
    for (const Direct direct : {Direct::Auto, Direct::Off}) {
      for (const int64_t most : {4096, 8192, 5000, 1000}) {
        std::atomic<bool> on{false};
        Rig rig(kind, direct, 16384, [&](bool, int64_t, size_t bytes) {
          return on ? most : static_cast<int64_t>(bytes);
        });
        const Life life{0, 1, 1};
        on = true;
        rig.drive->begin(life);
        CHECK_EQ(rig.append(life, kSegmentHeaderBytes, 0, 5), kStored);
        CHECK(rig.allLoaded(rig.placed));
        CHECK(rig.allLoaded(rig.placed, 8));
        rig.drive->seal(life);
        RecoveredPart part;
        CHECK(same(rig.recover(part), rig.placed));
        on = false;
        CHECK(rig.allLoaded(rig.placed));
      }
    }
  }
}

TEST(interrupted_and_refused_transfers_go_on_or_become_buffered) {
  for (const Kind kind : kinds()) {
    for (const int error : {EINTR, EAGAIN, EINVAL}) {
      std::atomic<int> left{0};
      Rig rig(kind, Direct::Auto, 16384, [&](bool, int64_t, size_t bytes) {
        return left.fetch_sub(1) > 0 ? -error : static_cast<int64_t>(bytes);
      });
      if (error == EINVAL && !rig.drive->file().direct()) continue;
      const Life life{0, 1, 1};
      rig.drive->begin(life);
      left = 1;
      CHECK_EQ(rig.append(life, kSegmentHeaderBytes, 0, 5), kStored);
      left = 1;
      CHECK(rig.allLoaded(rig.placed));
    }
  }
}

TEST(a_write_that_fails_fails_its_whole_record_and_no_other) {
  for (const Kind kind : kinds()) {
    for (const int error : {ENOSPC, EIO, EDQUOT}) {
      // In a payload, in the header, and a write that moves nothing.
      for (const int where : {0, 1, 2}) {
        std::atomic<bool> on{false};
        std::atomic<uint64_t> headerAt{0};
        Rig rig(kind, Direct::Auto, 16384, [&](bool writing, int64_t offset, size_t bytes) -> int64_t {
          const bool header = static_cast<uint64_t>(offset) == headerAt.load();
          if (!on || !writing || header != (where == 1)) return static_cast<int64_t>(bytes);
          return -error;
        });
        const Life life{0, 1, 1};
        rig.drive->begin(life);
        CHECK_EQ(rig.append({0, 1, 2}, kSegmentHeaderBytes, 0, 3), kStored);
        const uint64_t second = kSegmentHeaderBytes + rig.shape.recordBytes(3);
        const uint64_t third = second + rig.shape.recordBytes(10);
        headerAt = rig.drive->superblock().placeOf(0) + second;
        on = true;
        CHECK_EQ(rig.append({0, 1, 3}, second, 100, 10), failed(codeOfErrno(error)));
        on = false;
        CHECK_EQ(rig.append({0, 1, 4}, third, 200, 3), kStored);
        RecoveredPart part;
        CHECK(same(rig.recover(part), rig.placed));
        rig.drive->seal(life);
        CHECK(same(rig.recover(part), rig.placed));
        CHECK(part.segments[0].sealed);
        CHECK(rig.allLoaded(rig.placed));
      }
    }
  }
}

TEST(a_read_that_fails_fails_its_blocks_only) {
  for (const Kind kind : kinds()) {
    std::atomic<uint64_t> badAt{0};
    Rig rig(kind, Direct::Auto, 16384, [&](bool writing, int64_t offset, size_t bytes) -> int64_t {
      const auto start = static_cast<uint64_t>(offset);
      if (!writing && start <= badAt && badAt < start + bytes) return -EIO;
      return static_cast<int64_t>(bytes);
    });
    const Life life{0, 1, 1};
    rig.drive->begin(life);
    CHECK_EQ(rig.append(life, kSegmentHeaderBytes, 0, 12), kStored);
    badAt = uint64_t{rig.placed[5].offset4k} * 4096;
    const auto outcomes = rig.read(rig.placed);
    for (size_t i = 0; i < outcomes.size(); i++) CHECK_EQ(outcomes[i], i == 5 ? failed(Code::Io) : kLoaded);
    CHECK_EQ(rig.drive->counters().corruptBlocks.load(), 0u);
  }
}

TEST(a_begin_or_seal_that_fails_says_so_and_can_be_tried_again) {
  std::atomic<bool> on{false};
  Rig rig(Kind::Threads, Direct::Auto, 16384, [&](bool writing, int64_t, size_t bytes) -> int64_t {
    return on && writing ? -ENOSPC : static_cast<int64_t>(bytes);
  });
  on = true;
  CHECK_EQ(codeOf([&] { rig.drive->begin({0, 1, 1}); }), Code::NoSpace);
  on = false;
  rig.drive->begin({0, 2, 1});
  CHECK_EQ(rig.append({0, 2, 2}, kSegmentHeaderBytes, 0, 3), kStored);
  on = true;
  CHECK_EQ(codeOf([&] { rig.drive->seal({0, 2, 3}); }), Code::NoSpace);
  on = false;
  CHECK_EQ(rig.append({0, 2, 4}, kSegmentHeaderBytes + rig.shape.recordBytes(3), 10, 3), kStored);
  rig.drive->seal({0, 2, 5});
  RecoveredPart part;
  CHECK(same(rig.recover(part), rig.placed));
}

TEST(a_wrong_byte_on_the_drive_is_corrupt_and_costs_no_other_block) {
  for (const Kind kind : kinds()) {
    Rig rig(kind, Direct::Auto, 16384);
    const Life life{0, 1, 1};
    rig.drive->begin(life);
    CHECK_EQ(rig.append(life, kSegmentHeaderBytes, 0, 4), kStored);
    const uint64_t at = uint64_t{rig.placed[1].offset4k} * 4096 + 77;
    const uint8_t before = rig.bytes(at, 1)[0];
    rig.overwrite(at, {static_cast<uint8_t>(before ^ 1)});
    const auto outcomes = rig.read(rig.placed);
    CHECK_EQ(outcomes[1], kCorrupt);
    CHECK_EQ(outcomes[0], kLoaded);
    CHECK_EQ(rig.drive->counters().corruptBlocks.load(), 1u);
    rig.overwrite(at, {before});
    CHECK(rig.allLoaded(rig.placed));
  }
}

TEST(regions_that_are_cut_short_fail_their_batches) {
  for (const Kind kind : kinds()) {
    for (const Direct direct : {Direct::Auto, Direct::Off}) {
      Rig rig(kind, direct);
      const Life life{0, 1, 1};
      rig.drive->begin(life);
      CHECK_EQ(rig.append({0, 1, 2}, kSegmentHeaderBytes, 0, 4), kStored);
      for (const bool reading : {true, false}) {
        const std::string path = rig.options.path + (reading ? "in" : "out");
        const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        CHECK_EQ(ftruncate(file, 8 * 16384), 0);
        const auto region = Region::mapPath(path, {8, 16384, 0});
        const SegmentBlocks blocks = rig.blocksOf({0, 1, 2, 3}, region->data(), 16384);
        std::vector<uint32_t> offsets, checksums;
        for (const Placed& each : rig.placed) {
          offsets.push_back(each.offset4k);
          checksums.push_back(each.checksum);
        }
        const auto read = [&] {
          const auto work =
              std::make_shared<ReadWork>(std::make_unique<ReadOperation>(rig.drive, blocks, offsets, checksums));
          rig.engine->submit(work);
          work->waiting.wait();
          return work->operation->outcomes();
        };
        // Once while it is whole, so that a ring has its memory registered.
        for (const BlockOutcome& outcome : read()) CHECK_EQ(outcome, kLoaded);
        CHECK_EQ(ftruncate(file, 0), 0);
        if (reading) {
          for (const BlockOutcome& outcome : read()) CHECK_EQ(outcome, failed(Code::RegionGone));
        } else {
          const auto work = std::make_shared<AppendWork>(
              std::make_unique<AppendOperation>(rig.drive, Life{0, 1, 3}, 512 * 1024, blocks));
          rig.engine->submit(work);
          work->waiting.wait();
          CHECK_EQ(work->outcome, failed(Code::RegionGone));
        }
        ::close(file);
      }
      CHECK(rig.allLoaded(rig.placed));
      RecoveredPart part;
      CHECK(same(rig.recover(part), rig.placed));
    }
  }
}

TEST(rings_let_go_of_the_memory_of_regions_that_have_ended) {
  if (kinds().size() < 2) SKIP("no io_uring here");
  Rig rig(Kind::Ring);
  const auto& ring = static_cast<const RingEngine&>(*rig.engine);
  rig.drive->begin({0, 1, 1});
  CHECK_EQ(rig.append({0, 1, 2}, kSegmentHeaderBytes, 0, 4), kStored);
  for (int round = 0; round < 3; round++) {
    {
      const auto region = Region::create({16, 16384, 0});
      std::vector<uint32_t> offsets, checksums;
      for (const Placed& each : rig.placed) {
        offsets.push_back(each.offset4k);
        checksums.push_back(each.checksum);
      }
      const auto work = std::make_shared<ReadWork>(std::make_unique<ReadOperation>(
          rig.drive, rig.blocksOf({0, 1, 2, 3}, region->data(), 16384), offsets, checksums));
      rig.engine->submit(work);
      work->waiting.wait();
      for (const BlockOutcome& outcome : work->operation->outcomes()) CHECK_EQ(outcome, kLoaded);
      // RLIMIT_MEMLOCK may forbid it; then nothing is registered, and all works the same.
      CHECK(ring.registeredBytes() == 0 || ring.registeredBytes() == 16 * 16384);
    }
    for (int tries = 0; tries < 2000 && ring.registeredBytes() > 0; tries++) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    CHECK_EQ(ring.registeredBytes(), 0u);
  }
}

TEST(batches_of_both_kinds_are_cancelled_without_loss) {
  for (const Kind kind : kinds()) {
    Rig rig(kind, Direct::Auto, 65536);
    Memory memory(8 * 65536);
    memory.fill(1);
    for (uint32_t round = 0; round < 30; round++) {
      const Life life{round % 4, 1 + round, 1};
      rig.drive->begin(life);
      const auto work = std::make_shared<AppendWork>(std::make_unique<AppendOperation>(
          rig.drive, life, kSegmentHeaderBytes, rig.blocksOf({0, 1, 2, 3, 4, 5, 6, 7}, memory.data(), 65536)));
      rig.engine->submit(work);
      if (round % 3 != 0) rig.engine->cancel(work.get(), Code::Aborted);
      work->waiting.wait();
      CHECK(work->outcome == kStored || work->outcome == failed(Code::Aborted));
      RecoveredPart part;
      rig.recover(part);
      size_t records = 0;
      for (const auto& segment : part.segments) {
        if (segment.life.segment == life.segment) records = segment.records.size();
      }
      CHECK_EQ(records, work->outcome == kStored ? 1u : 0u);
    }
  }
}

TEST(many_threads_append_and_read_at_once) {
  for (const Kind kind : kinds()) {
    Rig rig(kind, Direct::Auto, 4096);
    for (uint32_t segment = 0; segment < 4; segment++) rig.drive->begin({segment, 1, segment});
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (uint32_t segment = 0; segment < 4; segment++) {
      threads.emplace_back([&, segment] {
        Memory memory(8 * 4096);
        Memory back(8 * 4096);
        std::vector<uint32_t> numbers{1, 2, 3, 4, 5, 6, 7, 8};
        for (uint32_t i = 0; i < 15; i++) {
          memory.fill(segment * 100 + i);
          const uint64_t offset = kSegmentHeaderBytes + i * rig.shape.recordBytes(8);
          const auto append = std::make_shared<AppendWork>(std::make_unique<AppendOperation>(
              rig.drive, Life{segment, 1, i}, offset, rig.blocksOf(numbers, memory.data(), 4096)));
          rig.engine->submit(append);
          append->waiting.wait();
          if (append->outcome != kStored) wrong++;
          std::vector<uint32_t> offsets;
          const uint64_t start = rig.drive->superblock().placeOf(segment) + offset + rig.shape.headerBytes(8);
          for (uint32_t block = 0; block < 8; block++) offsets.push_back(static_cast<uint32_t>(start / 4096) + block);
          const auto read = std::make_shared<ReadWork>(std::make_unique<ReadOperation>(
              rig.drive, rig.blocksOf(numbers, back.data(), 4096), offsets, append->operation->checksums()));
          rig.engine->submit(read);
          read->waiting.wait();
          for (const BlockOutcome& outcome : read->operation->outcomes()) {
            if (outcome != kLoaded) wrong++;
          }
          if (!(back == memory)) wrong++;
        }
        rig.drive->seal({segment, 1, 99});
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0);
    std::vector<RecoveredPart> parts;
    parts.push_back(rig.drive->recover(0, 4));
    const auto groups = groupRecords(parts);
    CHECK_EQ(groups[0].blocks, 4u * 15 * 8);
  }
}

TEST(a_drive_is_one_processs_and_a_foreign_file_is_left_alone) {
  Rig rig(Kind::Threads);
  CHECK_EQ(codeOf([&] { SegmentDrive::open(rig.options); }), Code::Busy);
  rig.close();
  const std::vector<uint8_t> page = rig.bytes(0, 4096);
  // One superblock is enough, and the other is written anew.
  rig.overwrite(0, std::vector<uint8_t>(4096, 3));
  rig.open();
  CHECK(rig.bytes(0, 4096) == page);
  rig.close();
  rig.overwrite(0, std::vector<uint8_t>(8192, 3));
  CHECK_EQ(codeOf([&] { SegmentDrive::open(rig.options); }), Code::ConfigInvalid);
  CHECK(rig.bytes(0, 8192) == std::vector<uint8_t>(8192, 3));
  // Nothing at its beginning, but something behind it.
  rig.overwrite(0, std::vector<uint8_t>(8192, 0));
  rig.overwrite(500'000, {1});
  CHECK_EQ(codeOf([&] { SegmentDrive::open(rig.options); }), Code::ConfigInvalid);
  rig.overwrite(500'000, {0});
  rig.open();
}

TEST(a_full_file_system_is_met_at_open_not_at_an_append) {
  const Scratch scratch(Place::Memory);
  DriveOptions options;
  options.path = scratch / "";
  options.segmentBytes = uint64_t{1} << 32;
  options.segments = 4000;
  CHECK_EQ(codeOf([&] { SegmentDrive::open(options); }), Code::NoSpace);
  CHECK_EQ(std::filesystem::file_size(scratch / "segments.kvs"), 0u);
  options.segmentBytes = 65536;
  options.segments = 2;
  const auto drive = SegmentDrive::open(options);
  CHECK_EQ(std::filesystem::file_size(scratch / "segments.kvs"), kDriveHeaderBytes + 2 * 65536);
}

TEST(sizes_that_make_no_drive_are_refused) {
  const Scratch scratch;
  const auto refused = [&](auto change) {
    DriveOptions options;
    options.path = scratch / "";
    options.segmentBytes = 65536;
    options.segments = 2;
    change(options);
    return codeOf([&] { SegmentDrive::open(options); });
  };
  CHECK_EQ(refused([](auto& options) { options.segmentBytes = 4096; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.segmentBytes = 65537; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.segments = 0; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.segments = uint64_t{1} << 40; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.path = "here"; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.path = "/proc/none"; }), Code::Internal);
  CHECK_EQ(refused([](auto&) {}), Code::None);
}

}  // namespace kvferry::test
