// Shared memory whose owner takes it away under us costs that owner's blocks and nothing else.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "checksum/crc32c.h"
#include "fixture.h"

namespace kvferry::test {
namespace {

constexpr size_t kRow = 65536;

/** A region over a file that the test may truncate, as a client may. */
struct Owned {
  explicit Owned(uint64_t rows = 4, uint64_t offset = 0) : path(scratch / "region") {
    file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0);
    CHECK_EQ(ftruncate(file, static_cast<off_t>(rows * kRow + offset)), 0);
    region = Region::mapPath(path, {rows, kRow, offset});
  }
  ~Owned() { ::close(file); }
  void truncate(off_t bytes) { CHECK_EQ(ftruncate(file, bytes), 0); }

  Scratch scratch;
  std::string path;
  int file;
  std::shared_ptr<Region> region;
};

Code mappingCode(int fd, const RegionShape& shape) {
  try {
    Region::mapFd(fd, shape);
  } catch (const Error& error) {
    return error.code;
  }
  return Code::None;
}

}  // namespace

TEST(regions_are_shared_and_sealed) {
  const auto region = Region::create({4, 4096, 0});
  const auto other = Region::mapFd(fcntl(region->fd(), F_DUPFD_CLOEXEC, 0), {3, 4096, 4096});
  std::memset(region->data() + 4096, 0x5a, 4096);
  CHECK_EQ(int{other->data()[0]}, 0x5a);
  CHECK_EQ(int{other->data()[4096]}, 0);
  CHECK(ftruncate(region->fd(), 100) != 0);
  CHECK((fcntl(region->fd(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(Region::find(region->data() + 5000, 100) == region);
  CHECK(Region::find(other->data() + 3 * 4096 - 1, 1) == other);
  CHECK(Region::find(other->data() + 3 * 4096, 1) != other);
  CHECK(Region::find(other->data() + 3 * 4096 - 1, 2) == nullptr);
  int local = 0;
  CHECK(Region::find(&local, 1) == nullptr);
}

TEST(regions_that_do_not_fit_their_file_are_refused) {
  const auto region = Region::create({2, 4096, 0});
  const auto copy = [&] { return fcntl(region->fd(), F_DUPFD_CLOEXEC, 0); };
  CHECK_EQ(mappingCode(copy(), {2, 4096, 0}), Code::None);
  CHECK_EQ(mappingCode(copy(), {3, 4096, 0}), Code::InvalidArgument);
  CHECK_EQ(mappingCode(copy(), {2, 4096, 4096}), Code::InvalidArgument);
  CHECK_EQ(mappingCode(copy(), {1, 4096, 100}), Code::InvalidArgument);
  CHECK_EQ(mappingCode(copy(), {0, 4096, 0}), Code::InvalidArgument);
  CHECK_EQ(mappingCode(copy(), {uint64_t{1} << 40, uint64_t{1} << 40, 0}), Code::InvalidArgument);
  int pipes[2];
  CHECK_EQ(pipe(pipes), 0);
  CHECK_EQ(mappingCode(pipes[0], {1, 4096, 0}), Code::InvalidArgument);
  // The descriptor belonged to the region that did not come to be.
  CHECK_EQ(fcntl(pipes[0], F_GETFD), -1);
  ::close(pipes[1]);
}

TEST(reading_a_truncated_region_gives_zeros_and_marks_it) {
  Owned owned;
  std::memset(owned.region->data(), 1, 4 * kRow);
  CHECK(!owned.region->gone());
  owned.truncate(kRow);
  CHECK_EQ(int{owned.region->data()[100]}, 1);
  CHECK(!owned.region->gone());
  CHECK_EQ(int{owned.region->data()[2 * kRow]}, 0);
  CHECK(owned.region->gone());
  owned.region->data()[3 * kRow] = 9;
  CHECK_EQ(int{owned.region->data()[3 * kRow]}, 9);
}

TEST(a_size_check_finds_a_truncated_region_without_a_fault) {
  Owned owned(4, 8192);
  CHECK(!owned.region->checkGone());
  owned.truncate(8192 + 4 * kRow - 1);
  CHECK(owned.region->checkGone());
}

TEST(many_threads_meet_the_missing_pages_at_once) {
  Owned owned(64);
  owned.truncate(0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++) {
    threads.emplace_back([&] { (void)crc32c(owned.region->data(), 64 * kRow); });
  }
  for (auto& thread : threads) thread.join();
  CHECK(owned.region->gone());
}

TEST(storing_from_a_truncated_region_fails_and_publishes_nothing) {
  for (const Direct direct : {Direct::Auto, Direct::Off}) {
    for (const Publish publish : {Publish::Auto, Publish::Rename}) {
      Owned owned;
      std::memset(owned.region->data(), 1, 4 * kRow);
      const Scratch disk(Place::Disk);
      FileStoreOptions options = optionsIn(disk, kRow);
      options.layout = Layout::VllmFs;
      options.direct = direct;
      options.publish = publish;
      const auto store = FileStore::open(options);
      ThreadState state;
      owned.truncate(2 * kRow + 4096);
      Region* const region = owned.region.get();
      // Before the truncation is met, the rows that are there can be stored.
      CHECK_EQ(store->store(keyOf(1).data(), region->data(), region, state), kStored);
      CHECK_EQ(store->store(keyOf(2).data(), region->data() + 2 * kRow, region, state), failed(Code::RegionGone));
      CHECK_EQ(store->store(keyOf(3).data(), region->data(), region, state), failed(Code::RegionGone));
      CHECK(!store->exists(keyOf(2).data()));
      CHECK_EQ(filesIn(options.tmpFolder), 0u);
      // Other regions are as before.
      Owned other;
      CHECK_EQ(store->store(keyOf(2).data(), other.region->data(), other.region.get(), state), kStored);
    }
  }
}

TEST(a_region_truncated_between_checksum_and_write_publishes_nothing) {
  for (const Direct direct : {Direct::Auto, Direct::Off}) {
    Owned owned;
    std::memset(owned.region->data(), 1, 4 * kRow);
    const Scratch disk(Place::Disk);
      FileStoreOptions options = optionsIn(disk, kRow);
      options.layout = Layout::VllmFs;
    options.direct = direct;
    FaultyIo io;
    const auto store = FileStore::open(options, io);
    ThreadState state;
    io.onWrite = [&](int64_t) {
      owned.truncate(kRow / 2);
      return 0;
    };
    CHECK_EQ(store->store(keyOf(1).data(), owned.region->data(), owned.region.get(), state),
             failed(Code::RegionGone));
    CHECK(!store->exists(keyOf(1).data()));
  }
}

TEST(loading_into_a_truncated_region_fails_and_spares_the_file) {
  for (const Direct direct : {Direct::Auto, Direct::Off}) {
    // Before the read, and between the read and the checksum.
    for (const bool afterRead : {false, true}) {
      Owned owned;
      const Scratch disk(Place::Disk);
      FileStoreOptions options = optionsIn(disk, kRow);
      options.layout = Layout::VllmFs;
      options.direct = direct;
      struct LateIo : FaultyIo {
        std::function<void()> after;
        int64_t read(int file, const iovec* parts, int count, int64_t offset) override {
          const int64_t bytes = FaultyIo::read(file, parts, count, offset);
          if (after) std::exchange(after, nullptr)();
          return bytes;
        }
      } io;
      const auto store = FileStore::open(options, io);
      ThreadState state;
      Memory memory(kRow);
      memory.fill(1);
      CHECK_EQ(store->store(keyOf(1).data(), memory.data(), nullptr, state), kStored);
      if (afterRead) {
        io.after = [&] { owned.truncate(100); };
      } else {
        owned.truncate(100);
      }
      CHECK_EQ(store->load(keyOf(1).data(), owned.region->data(), owned.region.get(), state), failed(Code::RegionGone));
      CHECK_EQ(filesIn(options.quarantineFolder), 0u);
      CHECK_EQ(store->load(keyOf(1).data(), memory.data(), nullptr, state), kLoaded);
    }
  }
}

TEST(a_client_that_scribbles_into_its_slot_cannot_condemn_a_file) {
  Owned owned;
  const Scratch disk(Place::Disk);
      FileStoreOptions options = optionsIn(disk, kRow);
      options.layout = Layout::VllmFs;
  struct Scribble : FaultyIo {
    uint8_t* slot = nullptr;
    int64_t read(int file, const iovec* parts, int count, int64_t offset) override {
      const int64_t bytes = FaultyIo::read(file, parts, count, offset);
      if (slot != nullptr) slot[5] ^= 1;
      return bytes;
    }
  } io;
  const auto store = FileStore::open(options, io);
  ThreadState state;
  Memory memory(kRow);
  memory.fill(1);
  CHECK_EQ(store->store(keyOf(1).data(), memory.data(), nullptr, state), kStored);
  io.slot = owned.region->data();
  CHECK_EQ(store->load(keyOf(1).data(), owned.region->data(), owned.region.get(), state), kLoaded);
  CHECK(std::memcmp(owned.region->data(), memory.data(), kRow) == 0);
  CHECK_EQ(filesIn(options.quarantineFolder), 0u);
}

TEST(regions_come_and_go_while_others_fault) {
  std::atomic<bool> stop{false};
  std::thread maker([&] {
    while (!stop) Region::create({1, 4096, 0})->data()[0] = 1;
  });
  for (int i = 0; i < 100; i++) {
    Owned owned(1);
    owned.truncate(0);
    CHECK_EQ(int{owned.region->data()[0]}, 0);
    CHECK(owned.region->gone());
  }
  stop = true;
  maker.join();
}

}  // namespace kvferry::test
