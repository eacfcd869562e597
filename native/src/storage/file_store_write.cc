// Storing one block: a file that nobody else can name, written whole, then given its name.
#include <fcntl.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "checksum/crc32c.h"
#include "common/aligned.h"
#include "storage/file_store.h"

namespace kvferry {
namespace {

uint64_t nowMs() {
  using namespace std::chrono;
  return static_cast<uint64_t>(duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count());
}

alignas(kPageBytes) constexpr uint8_t kZeros[kPageBytes] = {};

/** Negative errno values are the kernel's; this one says that the region's memory is not there any more. */
constexpr int kRegionGone = -100'000;

BlockOutcome failedBy(int error) {
  return failed(error == kRegionGone ? Code::RegionGone : codeOfErrno(-error));
}

}  // namespace

bool FileStore::isComplete(const struct stat& status) const {
  const auto bytes = static_cast<uint64_t>(status.st_size);
  return S_ISREG(status.st_mode) && (bytes == fileBytes_ || (options_.adopt && bytes == options_.facts.blockBytes));
}

/** Whether the file at `path`, which has this status, would be handed out as the key's block, its payload left aside. The paths of the
 * layout vllm-fs leave out most of the namespace, so that only the footer tells whose block a file is. */
bool FileStore::isOurs(const BlockPath& path, const uint8_t* key, const struct stat& status) {
  if (!isComplete(status)) return false;
  if (options_.layout == Layout::Kvferry || static_cast<uint64_t>(status.st_size) != fileBytes_) return true;
  const int file = io_.openAt(blocks_.fd(), path.file, O_RDONLY | O_NONBLOCK, 0);
  if (file < 0) return false;
  uint8_t footer[kFooterBytes];
  iovec part{footer, sizeof(footer)};
  const int64_t bytes = transfer(io_, false, file, &part, 1, paddedBytes_, false);
  io_.closeFile(file);
  return bytes == static_cast<int64_t>(sizeof(footer)) &&
         judgeFooter(footer, options_.facts, key).outcome == Outcome::Loaded;
}

BlockOutcome FileStore::store(const uint8_t* key, const uint8_t* payload, Region* region, ThreadState& state) {
  if (region != nullptr && region->gone()) return failed(Code::RegionGone);
  const BlockPath path(options_.layout, key, options_.facts.keyBytes);
  struct stat status;
  const int found = io_.statAt(blocks_.fd(), path.file, status);
  if (found == 0 && isOurs(path, key, status)) return {Outcome::Present, Code::None};
  if (found < 0 && found != -ENOENT && found != -ENOTDIR) return failed(codeOfErrno(-found));
  const bool replace = found == 0;
  return publish_ == Publish::Link ? storeByLink(path, key, payload, region, replace, state)
                                   : storeByRename(path, key, payload, region, state);
}

BlockOutcome FileStore::storeByLink(const BlockPath& path, const uint8_t* key, const uint8_t* payload, Region* region,
                                    bool replace, ThreadState& state) {
  const int file = openUnnamed(path);
  if (file < 0) return failedBy(file);
  int result = fill(file, key, payload, region, state);
  bool present = false;
  if (result == 0) {
    result = replace ? linkOver(file, path) : io_.link(file, blocks_.fd(), path.file);
    if (result == -EEXIST) {
      struct stat status;
      present = io_.statAt(blocks_.fd(), path.file, status) == 0 && isOurs(path, key, status);
      result = present ? 0 : linkOver(file, path);
    }
  }
  const int closed = io_.closeFile(file);
  if (result < 0) return failedBy(result);
  if (present) return {Outcome::Present, Code::None};
  if (closed < 0) {
    // Some file systems say only here that the bytes did not arrive, and the name is out already.
    io_.unlink(blocks_.fd(), path.file);
    return failedBy(closed);
  }
  if (options_.fsync) {
    if (const int synced = syncFolderOf(path); synced < 0) return failedBy(synced);
  }
  counters_.bytesStored.fetch_add(options_.facts.blockBytes, std::memory_order_relaxed);
  return {Outcome::Stored, Code::None};
}

BlockOutcome FileStore::storeByRename(const BlockPath& path, const uint8_t* key, const uint8_t* payload, Region* region,
                                      ThreadState& state) {
  const std::string name = nextName();
  const int file = openNamed(name.c_str());
  if (file < 0) return failedBy(file);
  int result = fill(file, key, payload, region, state);
  const int closed = io_.closeFile(file);
  if (result == 0) result = closed;
  if (result == 0) {
    result = io_.rename(tmp_.fd(), name.c_str(), blocks_.fd(), path.file);
    if (result == -ENOENT && makeFolderOf(path) == 0) {
      result = io_.rename(tmp_.fd(), name.c_str(), blocks_.fd(), path.file);
    }
    // A network file system may have sent it twice, when the first answer was lost: the second finds nothing to move.
    if (result == -ENOENT && exists(key)) result = 0;
  }
  if (result < 0) {
    io_.unlink(tmp_.fd(), name.c_str());
    return failedBy(result);
  }
  if (options_.fsync) {
    if (const int synced = syncFolderOf(path); synced < 0) return failedBy(synced);
  }
  counters_.bytesStored.fetch_add(options_.facts.blockBytes, std::memory_order_relaxed);
  return {Outcome::Stored, Code::None};
}

/** In the final folder: what the file system derives from the folder (quota, striping, placement) is then right. */
int FileStore::openUnnamed(const BlockPath& path) {
  char folder[sizeof(path.file)];
  std::memcpy(folder, path.file, path.folderLength);
  folder[path.folderLength] = 0;
  const int flags = O_TMPFILE | O_WRONLY | (direct_ ? O_DIRECT : 0);
  int file = io_.openAt(blocks_.fd(), folder, flags, options_.fileMode);
  if (file == -ENOENT) {
    if (const int made = makeFolderOf(path); made < 0) return made;
    file = io_.openAt(blocks_.fd(), folder, flags, options_.fileMode);
  }
  return file;
}

int FileStore::openNamed(const char* name) {
  return io_.openAt(tmp_.fd(), name, O_CREAT | O_EXCL | O_WRONLY | (direct_ ? O_DIRECT : 0), options_.fileMode);
}

/** Writes everything; 0, -errno or kRegionGone. */
int FileStore::fill(int file, const uint8_t* key, const uint8_t* payload, Region* region, ThreadState& state) {
  if ((options_.fileMode & umask_) != 0) {
    if (const int changed = io_.changeMode(file, options_.fileMode); changed < 0) return changed;
  }
  const int64_t written = writeBlock(file, key, payload, state);
  // A region that lost pages was read as zeros, or made the kernel say EFAULT: either way nothing may be published.
  if (region != nullptr && (region->gone() || (written == -EFAULT && (region->markGone(), true)))) return kRegionGone;
  if (written < 0) return static_cast<int>(written);
  if (written != static_cast<int64_t>(fileBytes_)) return -EIO;
  return options_.fsync ? io_.sync(file) : 0;
}

int64_t FileStore::writeBlock(int file, const uint8_t* key, const uint8_t* payload, ThreadState& state) {
  const size_t blockBytes = options_.facts.blockBytes;
  const size_t padding = paddedBytes_ - blockBytes;
  iovec parts[3];
  int count = 0;
  uint8_t* footer;
  if (direct_ && (padding != 0 || !isPageAligned(payload))) {
    uint8_t* const bounce = state.bounce.reserve(fileBytes_);
    std::memcpy(bounce, payload, blockBytes);
    std::memset(bounce + blockBytes, 0, padding);
    payload = bounce;
    footer = bounce + paddedBytes_;
    parts[count++] = {bounce, fileBytes_};
  } else {
    footer = state.footer.reserve(kFooterBytes);
    parts[count++] = {const_cast<uint8_t*>(payload), blockBytes};
    if (padding != 0) parts[count++] = {const_cast<uint8_t*>(kZeros), padding};
    parts[count++] = {footer, kFooterBytes};
  }
  writeFooter(footer, options_.facts, key, crc32c(payload, blockBytes), nowMs());
  return transfer(io_, true, file, parts, count, 0, direct_);
}

/** Replaces whatever has the name, without a moment in which nothing has it. */
int FileStore::linkOver(int file, const BlockPath& path) {
  const std::string name = nextName();
  if (const int linked = io_.link(file, tmp_.fd(), name.c_str()); linked < 0) return linked;
  const int renamed = io_.rename(tmp_.fd(), name.c_str(), blocks_.fd(), path.file);
  if (renamed < 0) io_.unlink(tmp_.fd(), name.c_str());
  return renamed;
}

int FileStore::makeFolderOf(const BlockPath& path) {
  char folder[sizeof(path.file)];
  for (size_t i = 0; i <= path.folderLength; i++) {
    folder[i] = path.file[i];
    if (path.file[i] != '/') continue;
    folder[i] = 0;
    const int made = io_.makeFolder(blocks_.fd(), folder, options_.folderMode);
    if (made < 0 && made != -EEXIST) return made;
    folder[i] = '/';
  }
  return 0;
}

int FileStore::syncFolderOf(const BlockPath& path) {
  char folder[sizeof(path.file)];
  std::memcpy(folder, path.file, path.folderLength);
  folder[path.folderLength] = 0;
  const int file = io_.openAt(blocks_.fd(), folder, O_RDONLY | O_DIRECTORY, 0);
  if (file < 0) return file;
  const int synced = io_.sync(file);
  io_.closeFile(file);
  return synced;
}

}  // namespace kvferry
