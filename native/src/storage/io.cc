#include "storage/io.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>

#include "common/aligned.h"

namespace kvferry {
namespace {

template <typename Call>
auto retried(Call call) -> decltype(call()) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : result;
}

}  // namespace

int Io::openAt(int folder, const char* path, int flags, mode_t mode) {
  return retried([&] { return openat(folder, path, flags | O_CLOEXEC, mode); });
}
int Io::closeFile(int file) {
  // Never retried: Linux has released the descriptor, whatever close returned.
  return close(file) < 0 ? -errno : 0;
}
int64_t Io::read(int file, const iovec* parts, int count, int64_t offset) {
  return retried([&]() -> int64_t { return preadv(file, parts, count, offset); });
}
int64_t Io::write(int file, const iovec* parts, int count, int64_t offset) {
  return retried([&]() -> int64_t { return pwritev(file, parts, count, offset); });
}
int Io::sync(int file) {
  return retried([&] { return fsync(file); });
}
int Io::statFile(int file, struct stat& status) {
  return retried([&] { return fstat(file, &status); });
}
int Io::statAt(int folder, const char* path, struct stat& status) {
  return retried([&] { return fstatat(folder, path, &status, 0); });
}
int Io::link(int file, int folder, const char* path) {
  // The short way wants a capability, or Linux 6.10 and the opener's own credentials; without them it says ENOENT.
  static std::atomic<bool> byDescriptor{true};
  if (byDescriptor.load(std::memory_order_relaxed)) {
    const int linked = retried([&] { return linkat(file, "", folder, path, AT_EMPTY_PATH); });
    if (linked != -ENOENT) return linked;
  }
  char self[40];
  std::snprintf(self, sizeof(self), "/proc/self/fd/%d", file);
  const int linked = retried([&] { return linkat(AT_FDCWD, self, folder, path, AT_SYMLINK_FOLLOW); });
  if (linked == 0) byDescriptor.store(false, std::memory_order_relaxed);
  return linked;
}
int Io::rename(int fromFolder, const char* from, int toFolder, const char* to) {
  return retried([&] { return renameat(fromFolder, from, toFolder, to); });
}
int Io::unlink(int folder, const char* path) {
  return retried([&] { return unlinkat(folder, path, 0); });
}
int Io::makeFolder(int folder, const char* path, mode_t mode) {
  return retried([&] { return mkdirat(folder, path, mode); });
}
int Io::changeMode(int file, mode_t mode) {
  return retried([&] { return fchmod(file, mode); });
}
int Io::makeBuffered(int file) {
  const int flags = fcntl(file, F_GETFL);
  if (flags < 0) return -errno;
  return fcntl(file, F_SETFL, flags & ~O_DIRECT) < 0 ? -errno : 0;
}

Io& systemIo() {
  static Io io;
  return io;
}

namespace {

/** Drops the first `bytes` bytes of what is left to move. */
void advance(iovec*& parts, int& count, size_t bytes) {
  while (count > 0 && bytes >= parts->iov_len) {
    bytes -= parts->iov_len;
    parts++;
    count--;
  }
  if (bytes > 0) {
    parts->iov_base = static_cast<uint8_t*>(parts->iov_base) + bytes;
    parts->iov_len -= bytes;
  }
}

}  // namespace

int64_t transfer(Io& io, bool writing, int file, iovec* parts, int count, int64_t offset, bool direct) {
  int64_t moved = 0;
  while (count > 0) {
    const int64_t result =
        writing ? io.write(file, parts, count, offset + moved) : io.read(file, parts, count, offset + moved);
    if (result == -EINVAL && direct) {
      direct = false;
      if (const int error = io.makeBuffered(file); error < 0) return error;
      continue;
    }
    if (result < 0) return result;
    if (result == 0) return writing ? -EIO : moved;
    moved += result;
    advance(parts, count, static_cast<size_t>(result));
    if (count > 0 && direct && moved % static_cast<int64_t>(kPageBytes) != 0) {
      direct = false;
      if (const int error = io.makeBuffered(file); error < 0) return error;
    }
  }
  return moved;
}

}  // namespace kvferry
