#include "storage/folder_look.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "common/codes.h"

namespace kvferry {
namespace {

constexpr std::string_view kBlockSuffix = ".kvb";

int64_t nanoseconds(const statx_timestamp& time) {
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

FolderStamp stampOf(int base, const std::string& path, bool touch) noexcept {
  // The base itself has an empty path, which utimensat takes from Linux 5.8 on only: "." is it, too.
  const char* const name = path.empty() ? "." : path.c_str();
  FolderStamp stamp;
  if (touch && utimensat(base, name, nullptr, 0) != 0) {
    stamp.error = errno;
    return stamp;
  }
  struct statx status;
  if (statx(base, name, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &status) != 0) {
    stamp.error = errno;
    return stamp;
  }
  if (!S_ISDIR(status.stx_mode)) {
    stamp.error = ENOTDIR;
    return stamp;
  }
  stamp.changedNs = nanoseconds(status.stx_ctime);
  stamp.modifiedNs = nanoseconds(status.stx_mtime);
  stamp.bytes = status.stx_size;
  stamp.links = status.stx_nlink;
  return stamp;
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/** Appends the key that a block's file name says; nothing for other names. */
void appendKey(std::string_view name, std::string_view folder, size_t keyBytes, std::vector<uint8_t>& keys) {
  if (name.size() != 2 * keyBytes + kBlockSuffix.size() || !name.ends_with(kBlockSuffix)) return;
  if (!name.starts_with(folder)) return;
  const size_t before = keys.size();
  for (size_t i = 0; i < keyBytes; i++) {
    const int high = digit(name[2 * i]);
    const int low = digit(name[2 * i + 1]);
    if (high < 0 || low < 0) return keys.resize(before);
    keys.push_back(static_cast<uint8_t>(high << 4 | low));
  }
}

}  // namespace

FolderStamp stampFolder(int base, const std::string& path, bool touch) noexcept {
  const FolderStamp stamp = stampOf(base, path, touch);
  if (stamp.error != ENOENT || path.empty()) return stamp;
  const size_t slash = path.find_last_of('/');
  FolderStamp above = stampFolder(base, slash == std::string::npos ? "" : path.substr(0, slash), touch);
  if (above.error == 0 && above.missing == 0) {
    const FolderStamp again = stampOf(base, path, touch);
    if (again.error != ENOENT) return again;
  }
  above.missing++;
  return above;
}

std::vector<uint8_t> keysInFolder(int base, const std::string& folder, size_t keyBytes) {
  std::vector<uint8_t> keys;
  const int file = openat(base, folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) {
    if (errno == ENOENT) return keys;
    throw Error::ofErrno(errno, "open the folder", folder);
  }
  DIR* const opened = fdopendir(file);
  if (opened == nullptr) {
    const int error = errno;
    close(file);
    throw Error::ofErrno(error, "read the folder", folder);
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> guard(opened, closedir);
  errno = 0;
  while (const dirent* const entry = readdir(opened)) {
    appendKey(entry->d_name, folder, keyBytes, keys);
    errno = 0;
  }
  if (errno != 0) throw Error::ofErrno(errno, "read the folder", folder);
  return keys;
}

}  // namespace kvferry
