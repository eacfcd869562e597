// The file or block device under a segment drive: found or made, locked, allocated, and never taken from someone else.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>

#include "storage/io.h"
#include "storage/segment_format.h"
#include "engine/work.h"

namespace kvferry {

struct DriveOptions {
  /** A folder, or a block device. */
  std::string path;
  uint64_t segmentBytes = 0;
  uint64_t segments = 0;
  Direct direct = Direct::Auto;
  /** Whether the room of ended segments is given back; Auto: on devices. */
  Direct discard = Direct::Auto;
  mode_t fileMode = 0600;
  /** For tests. */
  TransferFaults faults;
};

class DriveFile {
 public:
  /** Opens the drive, or makes one where there is nothing. Throws Error; `types.ts` has the codes. */
  static std::unique_ptr<DriveFile> open(const DriveOptions& options);
  ~DriveFile();
  DriveFile(const DriveFile&) = delete;
  DriveFile& operator=(const DriveFile&) = delete;

  const Superblock& superblock() const { return superblock_; }
  /** Of the file or device itself. */
  const std::string& path() const { return path_; }
  bool direct() const { return directFile_ >= 0; }
  bool preallocated() const { return preallocated_; }
  int file() const { return direct() ? directFile_ : file_; }
  int bufferedFile() const { return file_; }

  /** Makes sure that there is room behind a range, if the drive has its room allocated; 0 or -errno. */
  int reserve(uint64_t offset, uint64_t bytes);
  /** Gives the room of a range back; what is read there afterwards is undefined. False where that is refused. */
  bool discard(uint64_t offset, uint64_t bytes);

 private:
  DriveFile(const DriveOptions& options, std::string path, bool device);
  void lock();
  bool readExisting();
  void checkEmpty(uint64_t offset, uint64_t bytes);
  void checkDeviceSize();
  void allocate();
  void writeSuperblocks();
  void openDirect();

  const DriveOptions options_;
  const std::string path_;
  const bool device_;
  int file_ = -1;
  int directFile_ = -1;
  bool preallocated_ = false;
  std::atomic<bool> refusesDiscard_{false};
  Superblock superblock_;
};

}  // namespace kvferry
