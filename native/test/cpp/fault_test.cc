// Storage that misbehaves: short transfers, full disks, errors of every call, O_DIRECT that is refused.
#include <fcntl.h>

#include <cstring>

#include "fixture.h"

namespace kvferry::test {
namespace {

struct Faulty {
  explicit Faulty(uint64_t blockBytes = 65536, Publish publish = Publish::Auto, Direct direct = Direct::Auto)
      : options(optionsIn(scratch, blockBytes)), memory(blockBytes), back(blockBytes) {
    options.layout = Layout::VllmFs;
    options.publish = publish;
    options.direct = direct;
    store = FileStore::open(options, io);
    memory.fill(blockBytes);
  }
  BlockOutcome put(uint32_t number = 1) {
    return store->store(keyOf(number).data(), memory.data(), nullptr, state);
  }
  BlockOutcome get(uint32_t number = 1) { return store->load(keyOf(number).data(), back.data(), nullptr, state); }
  bool nothingLeft() { return filesIn(options.blocksFolder) == 0 && filesIn(options.tmpFolder) == 0; }

  FaultyIo io;
  Scratch scratch{Place::Disk};
  FileStoreOptions options;
  std::shared_ptr<FileStore> store;
  ThreadState state;
  Memory memory;
  Memory back;
};

}  // namespace

TEST(short_transfers_are_continued) {
  for (const Direct direct : {Direct::Auto, Direct::Off}) {
    for (const size_t bytes : {4096u, 8192u, 12'288u, 5000u, 1000u, 65'536u + 100u}) {
      Faulty faulty(65536, Publish::Auto, direct);
      faulty.io.transferBytesMax = bytes;
      CHECK_EQ(faulty.put(), kStored);
      CHECK_EQ(faulty.get(), kLoaded);
      CHECK(faulty.back == faulty.memory);
      faulty.io.transferBytesMax = 0;
      CHECK_EQ(faulty.get(), kLoaded);
      // O_DIRECT cannot go on at an odd place, so the rest is buffered.
      if (faulty.store->direct() && bytes % 4096 != 0) CHECK(faulty.io.buffered > 0);
    }
  }
}

TEST(short_transfers_of_blocks_with_padding_are_continued) {
  for (const Direct direct : {Direct::On, Direct::Off}) {
    Faulty probe(4096);
    if (!probe.store->direct()) SKIP("no O_DIRECT in the temporary folder");
    for (const size_t bytes : {512u, 4096u, 7777u}) {
      Faulty faulty(10'001, Publish::Auto, direct);
      faulty.io.transferBytesMax = bytes;
      CHECK_EQ(faulty.put(), kStored);
      CHECK_EQ(faulty.get(), kLoaded);
      CHECK(faulty.back == faulty.memory);
    }
  }
}

TEST(o_direct_that_a_write_refuses_is_given_up) {
  Faulty faulty;
  if (!faulty.store->direct()) SKIP("no O_DIRECT in the temporary folder");
  bool first = true;
  faulty.io.onWrite = [&](int64_t) { return std::exchange(first, false) ? -EINVAL : 0; };
  CHECK_EQ(faulty.put(), kStored);
  CHECK_EQ(faulty.io.buffered.load(), 1);
  first = true;
  faulty.io.onRead = [&](int64_t) { return std::exchange(first, false) ? -EINVAL : 0; };
  CHECK_EQ(faulty.get(), kLoaded);
  CHECK(faulty.back == faulty.memory);
}

TEST(o_direct_that_open_refuses_is_not_used) {
  Scratch scratch;
  FaultyIo io;
  io.onOpen = [](const char*, int flags) { return (flags & O_DIRECT) != 0 ? -EINVAL : 0; };
  FileStoreOptions options = optionsIn(scratch, 65536);
  const auto store = FileStore::open(options, io);
  CHECK(!store->direct());
  ThreadState state;
  Memory memory(65536);
  memory.fill(1);
  CHECK_EQ(store->store(keyOf(1).data(), memory.data(), nullptr, state), kStored);
  options.direct = Direct::On;
  try {
    FileStore::open(options, io);
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQ(error.code, Code::Unsupported);
  }
}

TEST(unnamed_files_that_are_refused_are_not_used) {
  Scratch scratch;
  FaultyIo io;
  io.onOpen = [](const char*, int flags) { return (flags & O_TMPFILE) == O_TMPFILE ? -EOPNOTSUPP : 0; };
  FileStoreOptions options = optionsIn(scratch, 4096);
  CHECK_EQ(FileStore::open(options, io)->publish(), Publish::Rename);
  options.publish = Publish::Link;
  try {
    FileStore::open(options, io);
    CHECK(false);
  } catch (const Error& error) {
    CHECK_EQ(error.code, Code::Unsupported);
  }
}

TEST(a_failed_write_publishes_nothing) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    for (const int error : {ENOSPC, EIO, EDQUOT, ESTALE}) {
      Faulty faulty(65536, publish);
      faulty.io.onWrite = [&](int64_t) { return -error; };
      CHECK_EQ(faulty.put(), failed(codeOfErrno(error)));
      // In the middle of a block.
      faulty.io.transferBytesMax = 8192;
      faulty.io.onWrite = [&](int64_t offset) { return offset > 16'384 ? -error : 0; };
      CHECK_EQ(faulty.put(), failed(codeOfErrno(error)));
      CHECK(faulty.nothingLeft());
      CHECK_EQ(faulty.get(), kMiss);
      faulty.io.onWrite = nullptr;
      CHECK_EQ(faulty.put(), kStored);
    }
  }
}

TEST(a_write_that_moves_nothing_is_an_error_not_a_loop) {
  Faulty faulty(4096, Publish::Auto, Direct::Off);
  FaultyIo& io = faulty.io;
  struct Nothing : FaultyIo {
    int64_t write(int, const iovec*, int, int64_t) override { return 0; }
  } nothing;
  const auto store = FileStore::open(faulty.options, nothing);
  CHECK_EQ(store->store(keyOf(1).data(), faulty.memory.data(), nullptr, faulty.state), failed(Code::Io));
  (void)io;
}

TEST(a_failed_close_publishes_nothing) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    Faulty faulty(65536, publish);
    faulty.io.onClose = [] { return -ENOSPC; };
    CHECK_EQ(faulty.put(), failed(Code::NoSpace));
    CHECK(faulty.nothingLeft());
    faulty.io.onClose = [] { return -EIO; };
    CHECK_EQ(faulty.put(), failed(Code::Io));
    CHECK(faulty.nothingLeft());
  }
}

TEST(a_failed_open_link_or_rename_publishes_nothing) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    Faulty faulty(65536, publish);
    faulty.io.onOpen = [](const char*, int) { return -EACCES; };
    CHECK_EQ(faulty.put(), failed(Code::Permission));
    CHECK_EQ(faulty.get(), failed(Code::Permission));
    faulty.io.onOpen = [](const char*, int) { return -EMFILE; };
    CHECK_EQ(faulty.put(), failed(Code::TooManyFiles));
    faulty.io.onOpen = nullptr;
    faulty.io.onLink = [] { return -EDQUOT; };
    faulty.io.onRename = [] { return -EDQUOT; };
    CHECK_EQ(faulty.put(), failed(Code::NoSpace));
    CHECK(faulty.nothingLeft());
    faulty.io.onStat = [] { return -ESTALE; };
    CHECK_EQ(faulty.put(), failed(Code::Stale));
  }
}

TEST(a_name_taken_at_the_last_moment_is_present_or_replaced) {
  for (const bool complete : {true, false}) {
    Faulty faulty(4096);
    if (faulty.store->publish() != Publish::Link) SKIP("no O_TMPFILE in the temporary folder");
    const std::string path = fileOf(faulty.options, keyOf(1));
    CHECK_EQ(faulty.put(), kStored);
    std::vector<uint8_t> others = readAll(path);
    if (!complete) others.resize(100);
    std::filesystem::remove(path);
    bool first = true;
    faulty.io.onLink = [&] {
      if (std::exchange(first, false)) writeAll(path, others);
      return 0;
    };
    CHECK_EQ(faulty.put(), complete ? kPresent : kStored);
    CHECK_EQ(faulty.get(), kLoaded);
    CHECK_EQ(filesIn(faulty.options.tmpFolder), 0u);
  }
}

TEST(a_failed_read_is_no_miss_and_no_damage) {
  for (const int error : {EIO, ESTALE, ETIMEDOUT}) {
    Faulty faulty;
    CHECK_EQ(faulty.put(), kStored);
    faulty.io.onRead = [&](int64_t) { return -error; };
    CHECK_EQ(faulty.get(), failed(codeOfErrno(error)));
    CHECK_EQ(filesIn(faulty.options.quarantineFolder), 0u);
    faulty.io.onRead = nullptr;
    CHECK_EQ(faulty.get(), kLoaded);
  }
}

TEST(bytes_that_went_wrong_on_the_way_only_are_read_again) {
  Faulty faulty;
  CHECK_EQ(faulty.put(), kStored);
  struct Flip : FaultyIo {
    int left = 1;
    int64_t read(int file, const iovec* parts, int count, int64_t offset) override {
      const int64_t bytes = FaultyIo::read(file, parts, count, offset);
      if (left-- > 0) static_cast<uint8_t*>(parts[0].iov_base)[100] ^= 1;
      return bytes;
    }
  } flip;
  flip.left = 0;
  const auto store = FileStore::open(faulty.options, flip);
  flip.left = 1;
  CHECK_EQ(store->load(keyOf(1).data(), faulty.back.data(), nullptr, faulty.state), kLoaded);
  CHECK(faulty.back == faulty.memory);
  flip.left = 1000;
  CHECK_EQ(store->load(keyOf(1).data(), faulty.back.data(), nullptr, faulty.state), kCorrupt);
}

TEST(someone_elses_new_file_is_not_quarantined) {
  Faulty faulty(4096);
  const std::string path = fileOf(faulty.options, keyOf(1));
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  writeAll(path, std::vector<uint8_t>(10, 1));
  bool swapped = false;
  // Between the reading and the quarantine, another writer puts a good file in its place.
  faulty.io.onRead = [&](int64_t) {
    if (!std::exchange(swapped, true)) {
      std::filesystem::remove(path);
      writeAll(path, std::vector<uint8_t>(8192, 2));
    }
    return 0;
  };
  CHECK_EQ(faulty.get(), kCorrupt);
  CHECK_EQ(filesIn(faulty.options.quarantineFolder), 0u);
  CHECK_EQ(readAll(path).size(), 8192u);
}

TEST(a_quarantine_that_cannot_be_made_still_frees_the_name) {
  Faulty faulty(4096);
  CHECK_EQ(faulty.put(), kStored);
  writeAll(fileOf(faulty.options, keyOf(1)), std::vector<uint8_t>(10, 1));
  faulty.io.onMakeFolder = [] { return -EACCES; };
  CHECK_EQ(faulty.get(), kCorrupt);
  CHECK_EQ(faulty.get(), kMiss);
  CHECK_EQ(faulty.put(), kStored);
}

TEST(fsync_is_done_when_asked_for_and_its_errors_count) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    Faulty faulty(4096, publish);
    CHECK_EQ(faulty.put(), kStored);
    CHECK_EQ(faulty.io.synced.load(), 0);
    FileStoreOptions options = faulty.options;
    options.fsync = true;
    const auto store = FileStore::open(options, faulty.io);
    CHECK_EQ(store->store(keyOf(2).data(), faulty.memory.data(), nullptr, faulty.state), kStored);
    CHECK_EQ(faulty.io.synced.load(), 2);  // the file and its folder
    faulty.io.onSync = [] { return -EIO; };
    CHECK_EQ(store->store(keyOf(3).data(), faulty.memory.data(), nullptr, faulty.state), failed(Code::Io));
    CHECK(!store->exists(keyOf(3).data()));
  }
}

}  // namespace kvferry::test
