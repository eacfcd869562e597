// Copies between memories: bytes and checksums are right, wrong ones are never LOADED, and memory that is taken away costs its own blocks.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "checksum/crc32c.h"
#include "fixture.h"
#include "region/copy.h"

namespace kvferry::test {

TEST(copies_carry_every_byte_and_its_checksum) {
  for (const size_t bytes : {size_t{1}, size_t{4095}, size_t{16'384}, size_t{16'385}, size_t{100'000}, size_t{1} << 20}) {
    Memory source(bytes + 7);
    Memory target(bytes + 7);
    source.fill(bytes);
    for (const size_t shift : {size_t{0}, size_t{3}}) {
      std::memset(target.data(), 0x77, bytes + 7);
      CHECK_EQ(copyWithChecksum(source.data() + shift, target.data() + 1, bytes), crc32c(source.data() + shift, bytes));
      CHECK(std::memcmp(source.data() + shift, target.data() + 1, bytes) == 0);
      CHECK_EQ(int{target.data()[0]}, 0x77);
      CHECK_EQ(int{target.data()[bytes + 1]}, 0x77);
    }
  }
}

TEST(a_copy_that_does_not_verify_is_corrupt) {
  constexpr size_t kBlock = 40'000;
  Memory source(4 * kBlock);
  Memory target(4 * kBlock);
  source.fill(1);
  const CopySide from{source.data(), kBlock, nullptr};
  const CopySide to{target.data(), kBlock, nullptr};
  uint32_t checksum = 0;
  CHECK_EQ(copyBlock(from, 1, to, 3, kBlock, false, checksum), kStored);
  CHECK_EQ(checksum, crc32c(source.data() + kBlock, kBlock));
  CHECK_EQ(copyBlock(from, 1, to, 0, kBlock, true, checksum), kLoaded);
  std::mt19937 random(5);
  for (int round = 0; round < 200; round++) {
    uint8_t& byte = source.data()[kBlock + random() % kBlock];
    const uint8_t before = byte;
    byte ^= static_cast<uint8_t>(1 + random() % 255);
    CHECK_EQ(copyBlock(from, 1, to, 0, kBlock, true, checksum), kCorrupt);
    byte = before;
  }
  CHECK_EQ(copyBlock(from, 1, to, 0, kBlock, true, checksum), kLoaded);
  CHECK_EQ(copyBlock(from, 2, to, 0, kBlock, true, checksum), kCorrupt);
}

TEST(copies_from_and_to_a_truncated_region_fail_and_others_go_on) {
  constexpr size_t kRow = 65'536;
  Scratch scratch;
  Memory other(4 * kRow);
  other.fill(2);
  for (const bool source : {true, false}) {
    const std::string path = scratch / (source ? "source" : "target");
    const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK_EQ(ftruncate(file, 4 * kRow), 0);
    const auto region = Region::mapPath(path, {4, kRow, 0});
    const CopySide cut{region->data(), kRow, region.get()};
    const CopySide whole{other.data(), kRow, nullptr};
    const auto copy = [&](uint32_t slot) {
      uint32_t checksum = 0;
      return source ? copyBlock(cut, slot, whole, slot, kRow, false, checksum)
                    : copyBlock(whole, slot, cut, slot, kRow, false, checksum);
    };
    CHECK_EQ(copy(3), kStored);
    CHECK_EQ(ftruncate(file, kRow + 4096), 0);
    CHECK_EQ(copy(0), kStored);
    CHECK_EQ(copy(1), failed(Code::RegionGone));
    CHECK_EQ(copy(0), failed(Code::RegionGone));
    uint32_t checksum = 0;
    CHECK_EQ(copyBlock(whole, 0, whole, 1, kRow, false, checksum), kStored);
    ::close(file);
  }
}

TEST(huge_pages_are_tried_and_memory_is_made_present_unchanged) {
  const uint64_t bytes = 24 * 1024 * 1024 + 4096;
  const auto region = Region::create({bytes / 4096, 4096, 0}, true);
  CHECK_EQ(region->bytes(), bytes);
  // Written while it is being made present.
  for (size_t i = 0; i < bytes; i += 4096) region->data()[i] = static_cast<uint8_t>(i / 4096 + 1);
  for (int tries = 0; tries < 2000 && region->populatedBytes() < bytes; tries++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  CHECK(region->populatedBytes() >= bytes);
  for (size_t i = 0; i < bytes; i += 4096) CHECK_EQ(int{region->data()[i]}, int{static_cast<uint8_t>(i / 4096 + 1)});
  CHECK(ftruncate(region->fd(), 100) != 0);
  const auto other = Region::mapFd(fcntl(region->fd(), F_DUPFD_CLOEXEC, 0), {bytes / 4096, 4096, 0});
  CHECK_EQ(int{other->data()[4096]}, 2);
}

TEST(a_region_can_be_closed_while_it_is_made_present) {
  for (int round = 0; round < 20; round++) Region::create({64 * 1024, 4096, 0}, true)->data()[0] = 1;
}

}  // namespace kvferry::test
