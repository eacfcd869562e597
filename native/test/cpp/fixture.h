// A file store in a folder of its own, over system calls that a test can make fail or fall short.
#pragma once

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "storage/file_store.h"

namespace kvferry::test {

enum class Place { Memory, Disk };

/** A temporary folder, gone with the object: in memory because that is quick, or on the disk that TMPDIR names. */
class Scratch {
 public:
  explicit Scratch(Place place = Place::Memory) {
    const bool inMemory = place == Place::Memory && std::filesystem::exists("/dev/shm");
    std::string name = (inMemory ? "/dev/shm" : std::filesystem::temp_directory_path().string()) + "/kvferry-test-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/** The real system calls, but for what a test puts in their way. A hook answers 0 for "do it", or -errno. */
class FaultyIo : public Io {
 public:
  std::function<int(const char* path, int flags)> onOpen;
  std::function<int()> onClose;
  std::function<int64_t(int64_t offset)> onRead;
  std::function<int64_t(int64_t offset)> onWrite;
  std::function<int()> onLink;
  std::function<int()> onRename;
  std::function<int()> onMakeFolder;
  std::function<int()> onSync;
  std::function<int()> onStat;
  /** Bytes that one read or write moves at most; 0 is without limit. */
  size_t transferBytesMax = 0;
  std::atomic<int> buffered{0};
  std::atomic<int> synced{0};

  int openAt(int folder, const char* path, int flags, mode_t mode) override {
    if (const int error = onOpen ? onOpen(path, flags) : 0) return error;
    return Io::openAt(folder, path, flags, mode);
  }
  int closeFile(int file) override {
    const int closed = Io::closeFile(file);
    const int error = onClose ? onClose() : 0;
    return error != 0 ? error : closed;
  }
  int64_t read(int file, const iovec* parts, int count, int64_t offset) override {
    if (const int64_t error = onRead ? onRead(offset) : 0) return error;
    const auto shorter = cut(parts, count);
    return Io::read(file, shorter.data(), static_cast<int>(shorter.size()), offset);
  }
  int64_t write(int file, const iovec* parts, int count, int64_t offset) override {
    if (const int64_t error = onWrite ? onWrite(offset) : 0) return error;
    const auto shorter = cut(parts, count);
    return Io::write(file, shorter.data(), static_cast<int>(shorter.size()), offset);
  }
  int sync(int file) override {
    synced++;
    const int error = onSync ? onSync() : 0;
    return error != 0 ? error : Io::sync(file);
  }
  int statAt(int folder, const char* path, struct stat& status) override {
    const int error = onStat ? onStat() : 0;
    return error != 0 ? error : Io::statAt(folder, path, status);
  }
  int link(int file, int folder, const char* path) override {
    const int error = onLink ? onLink() : 0;
    return error != 0 ? error : Io::link(file, folder, path);
  }
  int rename(int fromFolder, const char* from, int toFolder, const char* to) override {
    const int error = onRename ? onRename() : 0;
    return error != 0 ? error : Io::rename(fromFolder, from, toFolder, to);
  }
  int makeFolder(int folder, const char* path, mode_t mode) override {
    const int error = onMakeFolder ? onMakeFolder() : 0;
    return error != 0 ? error : Io::makeFolder(folder, path, mode);
  }
  int makeBuffered(int file) override {
    buffered++;
    return Io::makeBuffered(file);
  }

 private:
  std::vector<iovec> cut(const iovec* parts, int count) const {
    std::vector<iovec> result;
    size_t left = transferBytesMax == 0 ? SIZE_MAX : transferBytesMax;
    for (int i = 0; i < count && left > 0; i++) {
      result.push_back({parts[i].iov_base, std::min(left, parts[i].iov_len)});
      left -= result.back().iov_len;
    }
    return result;
  }
};

/** Page-aligned memory of its own. */
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes), data_(buffer_.reserve(bytes == 0 ? 1 : bytes)) {}
  uint8_t* data() { return data_; }
  size_t size() const { return bytes_; }
  void fill(uint64_t seed) {
    std::mt19937_64 random(seed);
    for (size_t i = 0; i < bytes_; i++) data_[i] = static_cast<uint8_t>(random());
  }
  bool operator==(const Memory& other) const {
    return bytes_ == other.bytes_ && std::equal(data_, data_ + bytes_, other.data_);
  }

 private:
  AlignedBuffer buffer_;
  size_t bytes_;
  uint8_t* data_;
};

using Key = std::array<uint8_t, 36>;

inline Key keyOf(uint32_t number) {
  Key key{};
  std::mt19937 random(number);
  for (size_t i = 0; i < 32; i++) key[i] = static_cast<uint8_t>(random());
  return key;
}

inline FileStoreOptions optionsIn(const Scratch& scratch, uint64_t blockBytes) {
  FileStoreOptions options;
  options.blocksFolder = scratch / "ns/blocks";
  options.tmpFolder = scratch / "ns/tmp/writer";
  options.quarantineFolder = scratch / "ns/quarantine";
  options.facts.blockBytes = blockBytes;
  options.facts.keyBytes = sizeof(Key);
  options.facts.namespaceDigest.fill(0xd1);
  options.facts.writer = "host-1-2-3";
  return options;
}

inline std::string fileOf(const FileStoreOptions& options, const Key& key) {
  return options.blocksFolder + "/" + BlockPath(options.layout, key.data(), key.size()).file;
}

inline std::vector<uint8_t> readAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void writeAll(const std::string& path, const std::vector<uint8_t>& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

inline size_t filesIn(const std::string& folder) {
  if (!std::filesystem::exists(folder)) return 0;
  size_t count = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) count += entry.is_regular_file();
  return count;
}

constexpr BlockOutcome kStored{Outcome::Stored, Code::None};
constexpr BlockOutcome kPresent{Outcome::Present, Code::None};
constexpr BlockOutcome kLoaded{Outcome::Loaded, Code::None};
constexpr BlockOutcome kMiss{Outcome::Miss, Code::None};
constexpr BlockOutcome kCorrupt{Outcome::Corrupt, Code::Corrupt};

}  // namespace kvferry::test
