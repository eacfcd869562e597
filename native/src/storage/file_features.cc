#include "storage/file_features.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/aligned.h"
#include "common/codes.h"

namespace kvferry {
namespace {

constexpr mode_t kFileMode = 0600;
constexpr int kTimestampsSeen = 64;
/** How long files are changed to see their times step: some file systems count in seconds. */
constexpr uint64_t kTimestampsNs = 1'200'000'000;

class File {
 public:
  explicit File(int file) : file_(file) {}
  ~File() {
    if (file_ >= 0) close(file_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return file_; }
  explicit operator bool() const { return file_ >= 0; }

 private:
  const int file_;
};

/** A folder for the files of one probe. */
class Scratch {
 public:
  explicit Scratch(const std::string& folder) : path_(folder + "/.kvferry-probe-XXXXXX") {
    if (mkdtemp(path_.data()) == nullptr) throw Error::ofErrno(errno, "make a folder in", folder);
    file_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file_ >= 0) return;
    const int error = errno;
    rmdir(path_.c_str());
    throw Error::ofErrno(error, "open the folder", path_);
  }
  ~Scratch() {
    removeFiles();
    close(file_);
    rmdir(path_.c_str());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  int folder() const { return file_; }
  int make(const char* name, int flags) const {
    return openat(file_, name, O_CREAT | O_EXCL | O_CLOEXEC | flags, kFileMode);
  }

 private:
  void removeFiles() const {
    const int copy = openat(file_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* const listing = copy < 0 ? nullptr : fdopendir(copy);
    if (listing == nullptr) return;
    while (const dirent* const entry = readdir(listing)) unlinkat(file_, entry->d_name, 0);
    closedir(listing);
  }

  std::string path_;
  int file_ = -1;
};

int errnoIf(bool failed) { return failed ? errno : 0; }

bool writeAll(int file, const uint8_t* bytes, size_t length) {
  for (size_t done = 0; done < length;) {
    const ssize_t wrote = pwrite(file, bytes + done, length - done, static_cast<off_t>(done));
    if (wrote <= 0) return false;
    done += static_cast<size_t>(wrote);
  }
  return true;
}

int tryExclusiveCreate(const Scratch& scratch) {
  const File first(scratch.make("exclusive", O_WRONLY));
  if (!first) return errno;
  const File second(scratch.make("exclusive", O_WRONLY));
  if (second) return EIO;
  return errno == EEXIST ? 0 : errno;
}

int tryRenameOver(const Scratch& scratch) {
  const File before(scratch.make("before", O_WRONLY));
  const File after(scratch.make("after", O_WRONLY));
  if (!before || !after) return errno;
  if (!writeAll(after.get(), reinterpret_cast<const uint8_t*>("x"), 1)) return errno;
  if (renameat(scratch.folder(), "after", scratch.folder(), "before") != 0) return errno;
  struct stat status;
  if (fstatat(scratch.folder(), "before", &status, 0) != 0) return errno;
  return status.st_size == 1 ? 0 : EIO;
}

int tryHardLink(const Scratch& scratch) {
  const File file(scratch.make("linked", O_WRONLY));
  if (!file) return errno;
  return errnoIf(linkat(scratch.folder(), "linked", scratch.folder(), "link", 0) != 0);
}

int tryUnnamedFile(const Scratch& scratch) {
  const File file(openat(scratch.folder(), ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, kFileMode));
  if (!file) return errno;
  const std::string name = "/proc/self/fd/" + std::to_string(file.get());
  return errnoIf(linkat(AT_FDCWD, name.c_str(), scratch.folder(), "unnamed", AT_SYMLINK_FOLLOW) != 0);
}

int tryUserXattr(const Scratch& scratch) {
  const File file(scratch.make("xattr", O_WRONLY));
  if (!file) return errno;
  return errnoIf(fsetxattr(file.get(), "user.kvferry", "1", 1, 0) != 0);
}

void tryRoom(const Scratch& scratch, FileFeatures& features) {
  const File file(scratch.make("room", O_RDWR));
  if (!file) {
    features.fallocate = features.punchHole = errno;
    return;
  }
  features.fallocate = errnoIf(fallocate(file.get(), 0, 0, 1 << 20) != 0);
  features.punchHole = errnoIf(fallocate(file.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 19) != 0);
}

/** Whether memory, offset and length of O_DIRECT may be multiples of `alignment` and of no more. */
bool readsAligned(int file, uint8_t* memory, uint32_t alignment) {
  return pread(file, memory + alignment, alignment, alignment) == static_cast<ssize_t>(alignment);
}

void tryTransfers(const Scratch& scratch, FileFeatures& features) {
  AlignedBuffer buffers[2];
  uint8_t* const written = buffers[0].reserve(kTransferAskedBytes);
  uint8_t* const read = buffers[1].reserve(kTransferAskedBytes);
  for (uint32_t i = 0; i < kTransferAskedBytes; i++) written[i] = static_cast<uint8_t>(i * 7 + (i >> 12));
  {
    const File file(scratch.make("transfer", O_RDWR));
    if (file && writeAll(file.get(), written, kTransferAskedBytes)) {
      features.transferBytes = static_cast<uint32_t>(std::max<ssize_t>(0, pread(file.get(), read, kTransferAskedBytes, 0)));
    }
  }
  const File file(scratch.make("direct", O_RDWR | O_DIRECT));
  if (!file || !writeAll(file.get(), written, kTransferAskedBytes)) {
    features.direct = errno;
    return;
  }
  std::memset(read, 0, kTransferAskedBytes);
  const ssize_t got = pread(file.get(), read, kTransferAskedBytes, 0);
  features.direct = errnoIf(got < 0);
  if (got < 0) return;
  features.directTransferBytes = static_cast<uint32_t>(got);
  if (got == 0 || std::memcmp(read, written, static_cast<size_t>(got)) != 0) {
    features.direct = EIO;
    return;
  }
  for (uint32_t alignment = 1; alignment <= 65536; alignment *= alignment == 1 ? 512 : 2) {
    if (!readsAligned(file.get(), read, alignment)) continue;
    features.directAlignmentBytes = alignment;
    return;
  }
}

uint64_t nowNs(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

/** The least step between the times of a file that is changed again and again; 0 where none was seen. */
uint64_t timestampStepNs(const Scratch& scratch) {
  const File file(scratch.make("times", O_WRONLY));
  if (!file) return 0;
  uint64_t least = 0;
  uint64_t last = 0;
  const uint64_t end = nowNs(CLOCK_MONOTONIC) + kTimestampsNs;
  for (int seen = 0; seen < kTimestampsSeen && nowNs(CLOCK_MONOTONIC) < end;) {
    if (pwrite(file.get(), "x", 1, 0) != 1 || fsync(file.get()) != 0) break;
    struct stat status;
    if (fstat(file.get(), &status) != 0) break;
    const uint64_t at = static_cast<uint64_t>(status.st_mtim.tv_sec) * 1'000'000'000 +
                        static_cast<uint64_t>(status.st_mtim.tv_nsec);
    if (at == last) continue;
    if (last != 0 && at > last) least = least == 0 ? at - last : std::min(least, at - last);
    last = at;
    seen++;
  }
  return least;
}

}  // namespace

FileFeatures tryFileFeatures(const std::string& folder) {
  const Scratch scratch(folder);
  FileFeatures features;
  features.exclusiveCreate = tryExclusiveCreate(scratch);
  features.renameOver = tryRenameOver(scratch);
  features.hardLink = tryHardLink(scratch);
  features.unnamedFile = tryUnnamedFile(scratch);
  features.userXattr = tryUserXattr(scratch);
  tryRoom(scratch, features);
  tryTransfers(scratch, features);
  features.timestampStepNs = timestampStepNs(scratch);
  return features;
}

}  // namespace kvferry
