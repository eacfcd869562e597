// What network file systems do to a store: files that went stale, renames that were sent twice, folders that others change.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "storage/folder_look.h"
#include "fixture.h"

namespace kvferry::test {
namespace {

struct Networked {
  Networked() : memory(4096), back(4096) {
    options.publish = Publish::Rename;
    store = FileStore::open(options, io);
    memory.fill(7);
  }
  BlockOutcome put() { return store->store(keyOf(1).data(), memory.data(), nullptr, state); }
  BlockOutcome get() { return store->load(keyOf(1).data(), back.data(), nullptr, state); }

  FaultyIo io;
  Scratch scratch;
  FileStoreOptions options = optionsIn(scratch, 4096);
  std::shared_ptr<FileStore> store;
  ThreadState state;
  Memory memory;
  Memory back;
};

/** An open folder. */
struct OpenFolder {
  explicit OpenFolder(const std::string& path) : fd(open(path.c_str(), O_RDONLY | O_DIRECTORY)) {}
  ~OpenFolder() { close(fd); }
  const int fd;
};

}  // namespace

TEST(a_file_that_went_stale_is_asked_for_once_more_by_its_name) {
  Networked networked;
  CHECK_EQ(networked.put(), kStored);
  int left = 1;
  networked.io.onRead = [&](int64_t) { return left-- > 0 ? -ESTALE : 0; };
  CHECK_EQ(networked.get(), kLoaded);
  CHECK(networked.back == networked.memory);
  // another host has removed it: the name says so
  networked.io.onRead = [&](int64_t) {
    networked.store->remove(keyOf(1).data());
    return -ESTALE;
  };
  CHECK_EQ(networked.get(), kMiss);
  networked.io.onRead = nullptr;
  CHECK_EQ(networked.put(), kStored);
  networked.io.onRead = [](int64_t) { return -ESTALE; };
  CHECK_EQ(networked.get(), failed(Code::Stale));
}

TEST(a_rename_that_was_done_and_then_found_nothing_is_a_store) {
  Networked networked;
  // the server did it, its answer was lost, and the client asked again
  const BlockPath path(networked.options.layout, keyOf(1).data(), networked.options.facts.keyBytes);
  networked.io.onRename = [&] {
    for (const auto& file : std::filesystem::directory_iterator(networked.options.tmpFolder)) {
      std::filesystem::rename(file.path(), networked.options.blocksFolder + "/" + path.file);
    }
    return -ENOENT;
  };
  const BlockOutcome outcome = networked.put();
  networked.io.onRename = nullptr;
  CHECK_EQ(outcome, kStored);
  CHECK_EQ(networked.get(), kLoaded);
  // one that did nothing is none
  networked.store->remove(keyOf(1).data());
  networked.io.onRename = [] { return -ENOENT; };
  CHECK_EQ(networked.put().outcome, Outcome::Failed);
}

TEST(a_lookup_that_fails_says_nothing_about_the_block) {
  Networked networked;
  CHECK(networked.store->presenceOf(keyOf(1).data()) == BlockPresence::Missing);
  networked.io.onStat = [] { return -EIO; };
  CHECK(networked.store->presenceOf(keyOf(1).data()) == BlockPresence::Unknown);
}

TEST(a_folders_stamp_moves_with_its_names) {
  Scratch scratch;
  const OpenFolder base(scratch / "");
  std::filesystem::create_directory(scratch / "aa");
  const FolderStamp before = stampFolder(base.fd, "aa", false);
  CHECK_EQ(before.error, 0);
  CHECK_EQ(before.missing, 0u);
  usleep(20'000);
  CHECK_EQ(stampFolder(base.fd, "aa", false).changedNs, before.changedNs);
  std::ofstream(scratch / "aa/x").put('x');
  const FolderStamp after = stampFolder(base.fd, "aa", false);
  CHECK(after.changedNs > before.changedNs);
  usleep(20'000);
  CHECK(stampFolder(base.fd, "aa", true).changedNs > after.changedNs);
}

TEST(a_folder_that_is_missing_has_the_stamp_of_the_one_above) {
  Scratch scratch;
  const OpenFolder base(scratch / "");
  const FolderStamp top = stampFolder(base.fd, "", false);
  CHECK_EQ(stampFolder(base.fd, "abc/de_g0", false).missing, 2u);
  CHECK_EQ(stampFolder(base.fd, "abc/de_g0", false).changedNs, top.changedNs);
  std::filesystem::create_directory(scratch / "abc");
  CHECK_EQ(stampFolder(base.fd, "abc/de_g0", false).missing, 1u);
  CHECK_EQ(stampFolder(base.fd, "abc/de_g0", false).changedNs, stampFolder(base.fd, "abc", false).changedNs);
  std::filesystem::create_directory(scratch / "abc/de_g0");
  CHECK_EQ(stampFolder(base.fd, "abc/de_g0", false).missing, 0u);
  std::ofstream(scratch / "file").put('x');
  CHECK_EQ(stampFolder(base.fd, "file", false).error, ENOTDIR);
  CHECK_EQ(stampFolder(base.fd, "file/x", false).error, ENOTDIR);
}

TEST(keys_are_read_of_names_that_are_blocks_at_their_place) {
  Scratch scratch;
  const OpenFolder base(scratch / "");
  CHECK(keysInFolder(base.fd, "ab", 5).empty());
  std::filesystem::create_directory(scratch / "ab");
  for (const char* name : {"ab00000001.kvb", "ab000000FF.kvb", "ab0000000g.kvb", "ac00000001.kvb", "ab000001.kvb",
                           ".nfs000000000000000100000001", "ab00000001.bin", "ab00000001.kvb~"}) {
    std::ofstream(scratch / (std::string("ab/") + name)).put('x');
  }
  const std::vector<uint8_t> keys = keysInFolder(base.fd, "ab", 5);
  CHECK_EQ(keys.size(), 5u);
  CHECK_EQ(keys[0], 0xab);
  CHECK_EQ(keys[4], 1);
}

}  // namespace kvferry::test
