#include "storage/folder_calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <memory>

#include "common/codes.h"
#include "storage/file_store.h"

namespace kvferry {
namespace {

void must(bool worked, const char* doing, const std::string& path) {
  if (!worked) throw Error::ofErrno(errno, doing, path);
}

void mustBe(int64_t result, const char* doing, const std::string& path) {
  if (result < 0) throw Error::ofErrno(static_cast<int>(-result), doing, path);
}

}  // namespace

int makeFolders(Io& io, const std::string& path, mode_t mode) {
  const int made = io.makeFolder(AT_FDCWD, path.c_str(), mode);
  if (made == 0 || made == -EEXIST) return 0;
  if (made != -ENOENT) return made;
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos || slash == 0) return made;
  const int parent = makeFolders(io, path.substr(0, slash), mode);
  if (parent < 0) return parent;
  const int again = io.makeFolder(AT_FDCWD, path.c_str(), mode);
  return again == -EEXIST ? 0 : again;
}

std::vector<std::string> namesIn(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> opened(opendir(folder.c_str()), closedir);
  must(opened != nullptr, "read the folder", folder);
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(opened.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  must(errno == 0, "read the folder", folder);
  return names;
}

std::vector<uint8_t> readFile(const std::string& path, uint64_t bytesMax) {
  Io& io = systemIo();
  const Folder file(io.openAt(AT_FDCWD, path.c_str(), O_RDONLY | O_NONBLOCK, 0));
  mustBe(file.fd(), "open", path);
  struct stat status;
  mustBe(io.statFile(file.fd(), status), "read", path);
  std::vector<uint8_t> bytes(std::min<uint64_t>(bytesMax, static_cast<uint64_t>(status.st_size)));
  iovec part{bytes.data(), bytes.size()};
  const int64_t read = bytes.empty() ? 0 : transfer(io, false, file.fd(), &part, 1, 0, false);
  mustBe(read, "read", path);
  bytes.resize(static_cast<size_t>(read));
  return bytes;
}

void writeFile(const std::string& path, const std::vector<uint8_t>& bytes, bool mustBeNew, mode_t mode) {
  Io& io = systemIo();
  const int flags = O_WRONLY | O_CREAT | (mustBeNew ? O_EXCL : O_TRUNC);
  const int file = io.openAt(AT_FDCWD, path.c_str(), flags, mode);
  mustBe(file, "write", path);
  iovec part{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  const int64_t written = bytes.empty() ? 0 : transfer(io, true, file, &part, 1, 0, false);
  const int closed = io.closeFile(file);
  mustBe(written, "write", path);
  mustBe(closed, "write", path);
}

void renamePath(const std::string& from, const std::string& to) {
  mustBe(systemIo().rename(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str()), "rename to", to);
}

void removeTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) throw Error::ofErrno(error.value(), "remove", path);
}

PathFacts factsOf(const std::string& path) {
  struct stat status;
  mustBe(systemIo().statAt(AT_FDCWD, path.c_str(), status), "look at", path);
  const auto& modified = status.st_mtim;
  return {static_cast<double>(status.st_size),
          static_cast<double>(modified.tv_sec) * 1e3 + static_cast<double>(modified.tv_nsec / 1'000'000)};
}

int64_t fileSystemOf(const std::string& path) {
  struct statfs status;
  must(statfs(path.c_str(), &status) == 0, "look at the file system of", path);
  return status.f_type;
}

void touchPath(const std::string& path, double ms) {
  const double seconds = std::floor(ms / 1e3);
  const timespec time{static_cast<time_t>(seconds), static_cast<long>((ms - seconds * 1e3) * 1e6)};
  const timespec times[2] = {time, time};
  must(utimensat(AT_FDCWD, path.c_str(), times, 0) == 0, "set the time of", path);
}

void checkAccess(const std::string& path, int mode) { must(access(path.c_str(), mode) == 0, "use", path); }

}  // namespace kvferry
