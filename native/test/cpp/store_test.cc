// Blocks that are stored come back; what is on disk is what docs/block-format.md says; every row of "What a reader decides".
#include <sys/stat.h>

#include <cstring>
#include <thread>

#include "checksum/crc32c.h"
#include "fixture.h"

namespace kvferry::test {

namespace {

struct Case {
  uint64_t blockBytes;
  Direct direct;
  Publish publish;
  size_t misalignment;
};

/** On a real disk, in the layout that makes folders only when it needs them: 256 of them take longer than the rest. */
void roundTrip(const Case& each) {
  const Scratch scratch(Place::Disk);
  FileStoreOptions options = optionsIn(scratch, each.blockBytes);
  options.layout = Layout::VllmFs;
  options.direct = each.direct;
  options.publish = each.publish;
  const auto store = FileStore::open(options);
  ThreadState state;
  Memory memory(each.blockBytes + each.misalignment);
  Memory back(each.blockBytes + each.misalignment);
  memory.fill(each.blockBytes);
  const Key key = keyOf(1);
  uint8_t* const payload = memory.data() + each.misalignment;
  uint8_t* const target = back.data() + each.misalignment;
  CHECK_EQ(store->load(key.data(), target, nullptr, state), kMiss);
  CHECK(!store->exists(key.data()));
  CHECK_EQ(store->store(key.data(), payload, nullptr, state), kStored);
  CHECK(store->exists(key.data()));
  CHECK_EQ(store->load(key.data(), target, nullptr, state), kLoaded);
  CHECK(std::memcmp(payload, target, each.blockBytes) == 0);
  CHECK_EQ(store->store(key.data(), payload, nullptr, state), kPresent);
  const std::vector<uint8_t> file = readAll(fileOf(options, key));
  const size_t padded = roundUpToPage(each.blockBytes);
  CHECK_EQ(file.size(), padded + 4096);
  CHECK(std::memcmp(file.data(), payload, each.blockBytes) == 0);
  for (size_t i = each.blockBytes; i < padded; i++) CHECK_EQ(int{file[i]}, 0);
  CHECK_EQ(judgeFooter(file.data() + padded, options.facts, key.data()), kLoaded);
  CHECK_EQ(filesIn(options.tmpFolder), 0u);
  CHECK_EQ(store->counters().bytesStored.load(), each.blockBytes);
  CHECK_EQ(store->counters().bytesLoaded.load(), each.blockBytes);
  CHECK_EQ(store->remove(key.data()), (BlockOutcome{Outcome::Removed, Code::None}));
  CHECK_EQ(store->remove(key.data()), kMiss);
}

/** One stored block whose file a test may damage. */
struct Stored {
  explicit Stored(uint64_t blockBytes = 8192, bool adopt = false) : options(optionsIn(scratch, blockBytes)), payload(blockBytes), back(blockBytes) {
    options.adopt = adopt;
    store = FileStore::open(options);
    payload.fill(7);
    CHECK_EQ(store->store(key.data(), payload.data(), nullptr, state), kStored);
    path = fileOf(options, key);
    bytes = readAll(path);
  }
  uint8_t* footer() { return bytes.data() + bytes.size() - 4096; }
  /** Makes the footer's own checksum right again. */
  void seal() {
    const uint32_t sum = crc32c(footer(), 4092);
    std::memcpy(footer() + 4092, &sum, 4);
  }
  BlockOutcome load() {
    writeAll(path, bytes);
    return store->load(key.data(), back.data(), nullptr, state);
  }

  Scratch scratch;
  FileStoreOptions options;
  std::shared_ptr<FileStore> store;
  ThreadState state;
  Memory payload;
  Memory back;
  Key key = keyOf(3);
  std::string path;
  std::vector<uint8_t> bytes;
};

}  // namespace

TEST(blocks_come_back_as_they_were) {
  for (const uint64_t blockBytes : {1u, 4095u, 4096u, 65536u, 100'000u, 1u << 20}) {
    for (const Direct direct : {Direct::Off, Direct::Auto}) {
      for (const Publish publish : {Publish::Auto, Publish::Rename}) {
        for (const size_t misalignment : {0u, 512u, 3u}) roundTrip({blockBytes, direct, publish, misalignment});
      }
    }
  }
}

TEST(o_direct_works_for_blocks_that_are_not_whole_pages) {
  const Scratch probe(Place::Disk);
  FileStoreOptions options = optionsIn(probe, 4096);
  options.direct = Direct::Auto;
  if (!FileStore::open(options)->direct()) SKIP("no O_DIRECT in the temporary folder");
  for (const uint64_t blockBytes : {1u, 5000u, 100'000u}) {
    for (const Publish publish : {Publish::Auto, Publish::Rename}) roundTrip({blockBytes, Direct::On, publish, 5});
  }
}

TEST(vllm_layout_makes_its_folders) {
  const Scratch scratch;
  FileStoreOptions options = optionsIn(scratch, 4096);
  options.layout = Layout::VllmFs;
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    options.publish = publish;
    const auto store = FileStore::open(options);
    ThreadState state;
    Memory memory(4096);
    memory.fill(1);
    for (uint32_t i = 0; i < 20; i++) {
      const Key key = keyOf(i + 100 * static_cast<uint32_t>(publish));
      CHECK_EQ(store->store(key.data(), memory.data(), nullptr, state), kStored);
      CHECK_EQ(store->load(key.data(), memory.data(), nullptr, state), kLoaded);
    }
  }
}

TEST(in_vllms_folders_only_the_footer_tells_whose_a_file_is) {
  const Scratch scratch;
  FileStoreOptions options = optionsIn(scratch, 4096);
  options.layout = Layout::VllmFs;
  const auto ours = FileStore::open(options);
  options.facts.namespaceDigest.fill(0xd2);
  const auto others = FileStore::open(options);
  ThreadState state;
  Memory memory(4096);
  memory.fill(1);
  const Key key = keyOf(1);
  CHECK_EQ(ours->store(key.data(), memory.data(), nullptr, state), kStored);
  CHECK(ours->exists(key.data()));
  CHECK(!others->exists(key.data()));
  CHECK_EQ(others->remove(key.data()), kMiss);
  CHECK_EQ(others->load(key.data(), memory.data(), nullptr, state), (BlockOutcome{Outcome::Miss, Code::NamespaceMismatch}));
  CHECK_EQ(ours->store(key.data(), memory.data(), nullptr, state), kPresent);
  CHECK_EQ(others->store(key.data(), memory.data(), nullptr, state), kStored);
  CHECK(!ours->exists(key.data()));
}

TEST(reader_row_no_file) {
  Stored block;
  const Key other = keyOf(4);
  CHECK_EQ(block.store->load(other.data(), block.back.data(), nullptr, block.state), kMiss);
}

TEST(reader_row_no_footer) {
  for (const bool adopt : {false, true}) {
    Stored block(8192, adopt);
    block.bytes.resize(8192);
    CHECK_EQ(block.load(), adopt ? kLoaded : kMiss);
    if (adopt) CHECK(block.back == block.payload);
    CHECK_EQ(block.store->counters().adopted.load(), adopt ? 1u : 0u);
    CHECK(std::filesystem::exists(block.path));
    // Storing replaces a file without footer, unless such files are trusted.
    const BlockOutcome stored = block.store->store(block.key.data(), block.payload.data(), nullptr, block.state);
    CHECK_EQ(stored, adopt ? kPresent : kStored);
  }
}

TEST(reader_row_too_short) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{8191}, size_t{8193}, size_t{8192 + 4095}}) {
    Stored block;
    block.bytes.resize(bytes);
    CHECK_EQ(block.load(), kCorrupt);
    CHECK(!std::filesystem::exists(block.path));
    CHECK_EQ(filesIn(block.options.quarantineFolder), 1u);
    CHECK_EQ(block.load(), kCorrupt);
    CHECK_EQ(block.store->store(block.key.data(), block.payload.data(), nullptr, block.state), kStored);
  }
}

TEST(reader_row_magic_or_footer_checksum) {
  Stored block;
  block.footer()[0] ^= 1;
  block.seal();
  CHECK_EQ(block.load(), kCorrupt);
  block.footer()[0] ^= 1;
  block.seal();
  CHECK_EQ(block.load(), kLoaded);
  block.footer()[1000] ^= 1;
  CHECK_EQ(block.load(), kCorrupt);
}

TEST(reader_row_unknown_version_codec_or_checksum) {
  for (const size_t at : {8u, 24u, 26u}) {
    Stored block;
    block.footer()[at] ^= 0x40;
    block.seal();
    CHECK_EQ(block.load(), (BlockOutcome{Outcome::Miss, Code::Unsupported}));
    CHECK(std::filesystem::exists(block.path));
  }
}

TEST(reader_row_other_namespace) {
  Stored block;
  block.footer()[48] ^= 1;
  block.seal();
  CHECK_EQ(block.load(), (BlockOutcome{Outcome::Miss, Code::NamespaceMismatch}));
  CHECK(std::filesystem::exists(block.path));
}

TEST(reader_row_other_key_or_payload_bytes) {
  for (const size_t at : {80u, 28u, 16u}) {
    Stored block;
    block.footer()[at] ^= 1;
    block.seal();
    CHECK_EQ(block.load(), kCorrupt);
  }
}

TEST(reader_row_payload_checksum) {
  Stored block;
  block.bytes[4000] ^= 0x10;
  CHECK_EQ(block.load(), kCorrupt);
  CHECK_EQ(block.store->counters().quarantined.load(), 1u);
  CHECK_EQ(block.store->counters().bytesLoaded.load(), 0u);
  // The checksum field is wider than the checksum.
  Stored wide;
  wide.footer()[36] = 1;
  wide.seal();
  CHECK_EQ(wide.load(), kCorrupt);
}

TEST(damage_is_never_loaded) {
  std::mt19937 random(11);
  for (const uint64_t blockBytes : {8192u, 10'000u}) {
    Stored block(blockBytes);
    const std::vector<uint8_t> good = block.bytes;
    for (int round = 0; round < 500; round++) {
      block.bytes = good;
      const bool cut = random() % 4 == 0;
      size_t at = random() % good.size();
      if (cut) {
        if (at == blockBytes) at++;  // that length is a block without footer
        block.bytes.resize(at);
      } else {
        if (at >= blockBytes && at < good.size() - 4096) at = 0;  // the zeros in between are nobody's
        block.bytes[at] ^= static_cast<uint8_t>(1 + random() % 255);
      }
      const BlockOutcome outcome = block.load();
      CHECK_EQ(outcome, kCorrupt);
    }
  }
}

TEST(a_file_of_another_size_is_replaced) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    Scratch scratch;
    FileStoreOptions options = optionsIn(scratch, 4096);
    options.publish = publish;
    const auto store = FileStore::open(options);
    ThreadState state;
    Memory first(4096), second(4096), back(4096);
    first.fill(1);
    second.fill(2);
    const Key key = keyOf(1);
    writeAll(fileOf(options, key), std::vector<uint8_t>(100, 1));
    CHECK_EQ(store->store(key.data(), first.data(), nullptr, state), kStored);
    CHECK_EQ(store->store(key.data(), second.data(), nullptr, state), kPresent);
    CHECK_EQ(store->load(key.data(), back.data(), nullptr, state), kLoaded);
    CHECK(back == first);
    CHECK_EQ(filesIn(options.tmpFolder), 0u);
  }
}

TEST(writers_of_one_key_all_succeed_and_readers_see_whole_blocks) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    Scratch scratch;
    FileStoreOptions options = optionsIn(scratch, 16384);
    options.publish = publish;
    const auto store = FileStore::open(options);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (uint64_t thread = 0; thread < 6; thread++) {
      threads.emplace_back([&, thread] {
        ThreadState state;
        Memory memory(16384);
        memory.fill(thread);
        for (uint32_t i = 0; i < 60; i++) {
          const Key key = keyOf(i % 5);
          if (i % 3 == 0) store->remove(key.data());
          const BlockOutcome outcome = store->store(key.data(), memory.data(), nullptr, state);
          if (outcome != kStored && outcome != kPresent) wrong++;
          const BlockOutcome loaded = store->load(key.data(), memory.data(), nullptr, state);
          if (loaded != kLoaded && loaded != kMiss) wrong++;
        }
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0);
    CHECK_EQ(filesIn(options.blocksFolder), 5u);
    CHECK_EQ(filesIn(options.tmpFolder), 0u);
    CHECK_EQ(filesIn(options.quarantineFolder), 0u);
  }
}

TEST(quarantine_keeps_the_newest) {
  Scratch scratch;
  FileStoreOptions options = optionsIn(scratch, 4096);
  options.quarantineFilesMax = 3;
  const auto store = FileStore::open(options);
  ThreadState state;
  Memory memory(4096);
  for (uint32_t i = 0; i < 8; i++) {
    const Key key = keyOf(i);
    writeAll(fileOf(options, key), std::vector<uint8_t>(10 + i, 1));
    CHECK_EQ(store->load(key.data(), memory.data(), nullptr, state), kCorrupt);
  }
  const FolderListing listing = store->list(options.quarantineFolder);
  CHECK_EQ(listing.names.size(), 3u);
  for (const double bytes : listing.bytes) CHECK(bytes >= 15);
  CHECK_EQ(store->counters().quarantined.load(), 8u);
}

TEST(quarantine_of_none_removes) {
  Scratch scratch;
  FileStoreOptions options = optionsIn(scratch, 4096);
  options.quarantineFilesMax = 0;
  const auto store = FileStore::open(options);
  ThreadState state;
  Memory memory(4096);
  const Key key = keyOf(1);
  writeAll(fileOf(options, key), std::vector<uint8_t>(10, 1));
  CHECK_EQ(store->load(key.data(), memory.data(), nullptr, state), kCorrupt);
  CHECK(!store->exists(key.data()));
  CHECK_EQ(filesIn(options.quarantineFolder), 0u);
}

TEST(files_have_the_mode_that_was_asked_for) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    Scratch scratch;
    FileStoreOptions options = optionsIn(scratch, 4096);
    options.fileMode = 0666;  // more than the usual umask leaves
    options.publish = publish;
    const auto store = FileStore::open(options);
    ThreadState state;
    Memory memory(4096);
    memory.fill(1);
    const Key key = keyOf(1);
    CHECK_EQ(store->store(key.data(), memory.data(), nullptr, state), kStored);
    struct stat status;
    CHECK_EQ(::stat(fileOf(options, key).c_str(), &status), 0);
    CHECK_EQ(status.st_mode & 07777, 0666u);
  }
}

TEST(listing_gives_sizes_and_times) {
  Stored block;
  const FolderListing listing = block.store->list(std::filesystem::path(block.path).parent_path().string());
  CHECK_EQ(listing.names.size(), 1u);
  CHECK_EQ(listing.bytes[0], 8192.0 + 4096.0);
  CHECK(listing.modifiedAtMs[0] > 1.6e12);
  CHECK_EQ(block.store->list(block.scratch / "nothing").names.size(), 0u);
}

TEST(misuse_is_refused) {
  Scratch scratch;
  const auto refused = [&](auto change) {
    FileStoreOptions options = optionsIn(scratch, 4096);
    change(options);
    try {
      FileStore::open(options);
    } catch (const Error& error) {
      return error.code;
    }
    return Code::None;
  };
  CHECK_EQ(refused([](auto& options) { options.facts.keyBytes = 4; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.facts.keyBytes = 126; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.facts.blockBytes = 0; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.tmpFolder = "relative"; }), Code::InvalidArgument);
  const Scratch elsewhere(Place::Disk);
  CHECK_EQ(refused([&](auto& options) { options.tmpFolder = elsewhere / "tmp"; }), Code::InvalidArgument);
  CHECK_EQ(refused([](auto& options) { options.blocksFolder = "/proc/none"; }), Code::Internal);
}

}  // namespace kvferry::test
