#include "storage/drive_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

namespace kvferry {
namespace {

constexpr uint64_t kCopyAt = kPageBytes;

void checkOptions(const DriveOptions& options) {
  const auto fail = [](const std::string& message) { throw Error(Code::InvalidArgument, message); };
  if (options.path.empty() || options.path[0] != '/') fail("path must be absolute: '" + options.path + "'");
  if (options.path.find('\0') != std::string::npos) fail("path holds a zero byte");
  if (options.segmentBytes < kSegmentBytesMin || options.segmentBytes % kPageBytes != 0) {
    fail("segmentBytes must be a multiple of 4096 and at least 65536");
  }
  if (options.segments == 0 || options.segmentBytes > kDriveBytesMax - kDriveHeaderBytes ||
      options.segments > (kDriveBytesMax - kDriveHeaderBytes) / options.segmentBytes) {
    fail("segments must be positive, and the whole drive have 16 TiB at most");
  }
}

template <typename Call>
int64_t retried(Call call) {
  int64_t result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

/** Reads as much as there is. Throws Error. */
size_t readAt(int file, uint8_t* to, size_t bytes, uint64_t offset, const std::string& path) {
  size_t done = 0;
  while (done < bytes) {
    const int64_t got =
        retried([&] { return pread(file, to + done, bytes - done, static_cast<off_t>(offset + done)); });
    if (got < 0) throw Error::ofErrno(errno, "read", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

void writeAt(int file, const uint8_t* from, size_t bytes, uint64_t offset, const std::string& path) {
  size_t done = 0;
  while (done < bytes) {
    const int64_t put =
        retried([&] { return pwrite(file, from + done, bytes - done, static_cast<off_t>(offset + done)); });
    if (put < 0) throw Error::ofErrno(errno, "write", path);
    if (put == 0) throw Error(Code::Io, "cannot write " + path, EIO, path);
    done += static_cast<size_t>(put);
  }
}

uint64_t fileBytes(int file, const std::string& path) {
  struct stat status;
  if (fstat(file, &status) != 0) throw Error::ofErrno(errno, "stat", path);
  return static_cast<uint64_t>(status.st_size);
}

}  // namespace

std::unique_ptr<DriveFile> DriveFile::open(const DriveOptions& options) {
  checkOptions(options);
  struct stat status;
  if (stat(options.path.c_str(), &status) != 0) throw Error::ofErrno(errno, "find the drive's folder or device", options.path);
  const bool device = S_ISBLK(status.st_mode);
  if (!device && !S_ISDIR(status.st_mode)) {
    throw Error(Code::ConfigInvalid, "path must name a folder or a block device: " + options.path, 0, options.path);
  }
  std::unique_ptr<DriveFile> drive(
      new DriveFile(options, device ? options.path : options.path + "/segments.kvs", device));
  drive->lock();
  const bool found = drive->readExisting();
  if (device) {
    drive->checkDeviceSize();
    drive->preallocated_ = true;
  } else {
    drive->allocate();
  }
  Superblock& superblock = drive->superblock_;
  if (!found || superblock.segments != options.segments) {
    if (!found) {
      if (getrandom(superblock.uuid.data(), superblock.uuid.size(), 0) != static_cast<ssize_t>(superblock.uuid.size())) {
        throw Error(Code::Internal, "no random bytes for the drive's name");
      }
      using namespace std::chrono;
      superblock.madeAtMs =
          static_cast<uint64_t>(duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count());
    }
    superblock.segmentBytes = options.segmentBytes;
    superblock.segments = options.segments;
  }
  drive->writeSuperblocks();
  if (options.direct != Direct::Off) drive->openDirect();
  if (options.direct == Direct::On && !drive->direct()) {
    throw Error(Code::Unsupported, "O_DIRECT does not work on " + drive->path_, EINVAL, drive->path_);
  }
  return drive;
}

DriveFile::DriveFile(const DriveOptions& options, std::string path, bool device)
    : options_(options), path_(std::move(path)), device_(device) {}

DriveFile::~DriveFile() {
  if (directFile_ >= 0) close(directFile_);
  if (file_ >= 0) close(file_);
}

/** Opens and locks. The lock belongs to the open file, so it ends with this process, however that ends. */
void DriveFile::lock() {
  // On a device, O_EXCL also keeps it from being mounted, and refuses one that is.
  const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (device_ ? O_EXCL : O_CREAT);
  file_ = static_cast<int>(retried([&] { return ::open(path_.c_str(), flags, options_.fileMode); }));
  const auto busy = [&](int error) {
    return Error(Code::Busy, "the drive " + path_ + " is in use by another process; a drive serves one at a time", error,
                 path_);
  };
  if (file_ < 0 && errno == EBUSY) throw busy(EBUSY);
  if (file_ < 0) throw Error::ofErrno(errno, "open the drive", path_);
  struct stat status;
  if (fstat(file_, &status) != 0) throw Error::ofErrno(errno, "stat", path_);
  if (device_ ? !S_ISBLK(status.st_mode) : !S_ISREG(status.st_mode)) {
    throw Error(Code::ConfigInvalid, path_ + " is not a " + (device_ ? "block device" : "regular file"), 0, path_);
  }
  if (retried([&] { return flock(file_, LOCK_EX | LOCK_NB); }) != 0) {
    if (errno == EWOULDBLOCK) throw busy(EWOULDBLOCK);
    throw Error::ofErrno(errno, "lock the drive", path_);
  }
  if (!device_ && (status.st_mode & 07777) != options_.fileMode && status.st_size == 0) {
    if (fchmod(file_, options_.fileMode) != 0) throw Error::ofErrno(errno, "set the mode of", path_);
  }
}

/** True if there is a drive of ours; false if there is nothing. Throws Error where there is something else. */
bool DriveFile::readExisting() {
  uint8_t pages[2 * kPageBytes] = {};
  readAt(file_, pages, sizeof(pages), 0, path_);
  if (!readSuperblock(pages, superblock_) && !readSuperblock(pages + kCopyAt, superblock_)) {
    superblock_ = {};
    checkEmpty(0, kDriveHeaderBytes);
    return false;
  }
  if (superblock_.segmentBytes != options_.segmentBytes) {
    throw Error(Code::ConfigInvalid,
                path_ + " was made with segments of " + std::to_string(superblock_.segmentBytes) + " bytes, not " +
                    std::to_string(options_.segmentBytes) + "; keep that size, or " +
                    (device_ ? "clear the device (blkdiscard -z or wipefs -a)" : "remove the file") + " to begin anew",
                0, path_);
  }
  return true;
}

void DriveFile::checkEmpty(uint64_t offset, uint64_t bytes) {
  AlignedBuffer buffer;
  uint8_t* const found = buffer.reserve(bytes);
  const size_t got = readAt(file_, found, bytes, offset, path_);
  if (std::all_of(found, found + got, [](uint8_t byte) { return byte == 0; })) return;
  throw Error(Code::ConfigInvalid,
              path_ + " holds something that is not a kvferry drive, which is never overwritten; " +
                  (device_ ? "name another device, or clear this one (wipefs -a, then blkdiscard -z or dd if=/dev/zero)"
                           : "name another folder, or remove the file"),
              0, path_);
}

void DriveFile::checkDeviceSize() {
  uint64_t bytes = 0;
  if (ioctl(file_, BLKGETSIZE64, &bytes) != 0) throw Error::ofErrno(errno, "ask for the size of", path_);
  const uint64_t needed = kDriveHeaderBytes + options_.segments * options_.segmentBytes;
  if (bytes < needed) {
    throw Error(Code::ConfigInvalid,
                path_ + " has " + std::to_string(bytes) + " bytes, fewer than the " + std::to_string(needed) +
                    " of that many segments; lower the capacity",
                0, path_);
  }
  // Some keep their mark at the end: backup partition tables, RAID.
  if (superblock_.segments == 0) checkEmpty(bytes - std::min(bytes, kDriveHeaderBytes), kDriveHeaderBytes);
}

void DriveFile::allocate() {
  const uint64_t needed = kDriveHeaderBytes + options_.segments * options_.segmentBytes;
  const uint64_t before = fileBytes(file_, path_);
  const auto resize = [&](uint64_t bytes) {
    if (retried([&] { return ftruncate(file_, static_cast<off_t>(bytes)); }) != 0) {
      throw Error::ofErrno(errno, "size the drive", path_);
    }
  };
  if (before > needed) resize(needed);
  if (retried([&] { return fallocate(file_, 0, 0, static_cast<off_t>(needed)); }) == 0) {
    preallocated_ = true;
    return;
  }
  const int error = errno;
  if (error != EOPNOTSUPP && error != ENOSYS) {
    if (before < needed) resize(before);
    throw Error(codeOfErrno(error),
                "cannot allocate " + std::to_string(needed) + " bytes for " + path_ + ": " + errnoName(error) +
                    "; lower the capacity or free some room",
                error, path_);
  }
  resize(needed);
}

void DriveFile::writeSuperblocks() {
  uint8_t page[kPageBytes];
  writeSuperblock(page, superblock_);
  writeAt(file_, page, sizeof(page), kCopyAt, path_);
  writeAt(file_, page, sizeof(page), 0, path_);
  // What decides how everything else is read is worth waiting for, once.
  if (fdatasync(file_) != 0) throw Error::ofErrno(errno, "sync", path_);
}

/** Tries it on the superblocks, which are known. */
void DriveFile::openDirect() {
  const std::string self = "/proc/self/fd/" + std::to_string(file_);
  const int file = ::open(self.c_str(), O_RDWR | O_CLOEXEC | O_DIRECT);
  if (file < 0) return;
  AlignedBuffer buffers[2];
  uint8_t* const expected = buffers[0].reserve(kPageBytes);
  uint8_t* const found = buffers[1].reserve(kPageBytes);
  writeSuperblock(expected, superblock_);
  std::memset(found, 0, kPageBytes);
  constexpr ssize_t page = kPageBytes;
  if (pwrite(file, expected, kPageBytes, kCopyAt) == page && pread(file, found, kPageBytes, kCopyAt) == page &&
      std::memcmp(expected, found, kPageBytes) == 0) {
    directFile_ = file;
  } else {
    close(file);
  }
}

int DriveFile::reserve(uint64_t offset, uint64_t bytes) {
  if (device_ || !preallocated_) return 0;
  const int64_t done =
      retried([&] { return fallocate(file_, 0, static_cast<off_t>(offset), static_cast<off_t>(bytes)); });
  return done == 0 ? 0 : -errno;
}

bool DriveFile::discard(uint64_t offset, uint64_t bytes) {
  if (refusesDiscard_ || options_.discard == Direct::Off) return false;
  // A file that was written once is overwritten about twice as fast as one whose room is allocated anew.
  if (options_.discard == Direct::Auto && !device_) return false;
  int64_t done;
  if (device_) {
    uint64_t range[2] = {offset, bytes};
    done = retried([&] { return ioctl(file_, BLKDISCARD, range); });
  } else {
    done = retried([&] {
      return fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(bytes));
    });
  }
  if (done != 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM || errno == ENOTTY)) refusesDiscard_ = true;
  return done == 0;
}

}  // namespace kvferry
