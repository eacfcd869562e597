// File per block: docs/block-format.md as code. Every method is one block's whole life on storage, blocking, thread-safe.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "common/codes.h"
#include "storage/footer.h"
#include "storage/io.h"
#include "storage/layout.h"
#include "engine/engine.h"
#include "region/region.h"

namespace kvferry {

enum class Publish : uint8_t { Auto, Link, Rename };

struct FileStoreOptions {
  std::string blocksFolder;
  std::string tmpFolder;
  std::string quarantineFolder;
  uint32_t quarantineFilesMax = 64;
  Layout layout = Layout::Kvferry;
  FooterFacts facts;
  mode_t fileMode = 0600;
  mode_t folderMode = 0700;
  bool fsync = false;
  bool adopt = false;
  Direct direct = Direct::Auto;
  Publish publish = Publish::Auto;
};

struct FolderListing {
  std::vector<std::string> names;
  std::vector<double> bytes;
  std::vector<double> modifiedAtMs;
};

struct FileStoreCounters {
  std::atomic<uint64_t> bytesStored{0};
  std::atomic<uint64_t> bytesLoaded{0};
  std::atomic<uint64_t> adopted{0};
  std::atomic<uint64_t> quarantined{0};
};

/** A descriptor of a folder. */
class Folder {
 public:
  Folder() = default;
  explicit Folder(int file) : file_(file) {}
  Folder(Folder&& other) noexcept : file_(std::exchange(other.file_, -1)) {}
  Folder& operator=(Folder&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  ~Folder();
  int fd() const { return file_; }

 private:
  int file_ = -1;
};

/** As JavaScript gets it. Unknown: the file system could not tell. */
enum class BlockPresence : uint8_t { Missing = 0, There = 1, Unknown = 2 };

class FileStore {
 public:
  /** Makes and probes the folders. Throws Error. */
  static std::shared_ptr<FileStore> open(FileStoreOptions options, Io& io = systemIo());

  /** STORED, PRESENT or FAILED. `region` is the one that `payload` lies in, or nullptr. */
  BlockOutcome store(const uint8_t* key, const uint8_t* payload, Region* region, ThreadState& state);
  /** LOADED, MISS, CORRUPT or FAILED. Only LOADED says anything about the bytes at `payload`. */
  BlockOutcome load(const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state);
  /** REMOVED, MISS or FAILED. */
  BlockOutcome remove(const uint8_t* key);
  BlockPresence presenceOf(const uint8_t* key);
  bool exists(const uint8_t* key) { return presenceOf(key) == BlockPresence::There; }
  /** Of any folder. Throws Error; a folder that is missing is empty. */
  FolderListing list(const std::string& folder);

  /** A descriptor. */
  int blocksFolder() const { return blocks_.fd(); }
  bool direct() const { return direct_; }
  Publish publish() const { return publish_; }
  const FileStoreOptions& options() const { return options_; }
  const FileStoreCounters& counters() const { return counters_; }

 private:
  FileStore(FileStoreOptions options, Io& io);

  // file_store_open.cc
  Folder openFolder(const std::string& path);
  void makeBlockFolders();
  void probeNamedFile();
  bool probeDirect();
  bool probeLink();

  // file_store_write.cc
  int64_t writeBlock(int file, const uint8_t* key, const uint8_t* payload, ThreadState& state);
  BlockOutcome storeByLink(const BlockPath& path, const uint8_t* key, const uint8_t* payload, Region* region,
                           bool replace, ThreadState& state);
  BlockOutcome storeByRename(const BlockPath& path, const uint8_t* key, const uint8_t* payload, Region* region,
                             ThreadState& state);
  int openUnnamed(const BlockPath& path);
  int openNamed(const char* name);
  int fill(int file, const uint8_t* key, const uint8_t* payload, Region* region, ThreadState& state);
  int linkOver(int file, const BlockPath& path);
  int makeFolderOf(const BlockPath& path);
  int syncFolderOf(const BlockPath& path);
  bool isComplete(const struct stat& status) const;
  bool isOurs(const BlockPath& path, const uint8_t* key, const struct stat& status);
  std::string nextName();

  // file_store_read.cc
  BlockOutcome loadOnce(const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state);
  BlockOutcome readBlock(int file, const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state);
  BlockOutcome judge(int file, int64_t bytes, const uint8_t* key, const uint8_t* payload, const uint8_t* footer);
  BlockOutcome secondOpinion(int file, const uint8_t* key, uint8_t* payload, ThreadState& state);

  // quarantine.cc
  void quarantine(int file, const BlockPath& path, const uint8_t* key);
  void trimQuarantine();

  const FileStoreOptions options_;
  Io& io_;
  const uint64_t paddedBytes_;
  const uint64_t fileBytes_;
  Folder blocks_;
  Folder tmp_;
  bool direct_ = false;
  Publish publish_ = Publish::Rename;
  mode_t umask_ = 0;
  std::atomic<uint64_t> nameCounter_{0};
  std::mutex quarantineMutex_;
  uint64_t quarantineCounter_ = 0;
  FileStoreCounters counters_;
};

}  // namespace kvferry
