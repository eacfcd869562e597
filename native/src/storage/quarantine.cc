// Damaged files leave the blocks, so that the block can be stored again, and stay for people to look at: the newest few.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fcntl.h>

#include "storage/file_store.h"

namespace kvferry {
namespace {

/** Hex digits of the key in a quarantined file's name; with time and counter it stays below 255 bytes. */
constexpr size_t kKeyDigitsMax = 200;

/** "<key>.<ms>-<n>.kvb" → (ms, n), the order in which they came. */
std::pair<uint64_t, uint64_t> orderOf(const std::string& name) {
  const size_t dot = name.find('.');
  if (dot == std::string::npos) return {0, 0};
  char* end = nullptr;
  const uint64_t ms = std::strtoull(name.c_str() + dot + 1, &end, 10);
  return {ms, *end == '-' ? std::strtoull(end + 1, nullptr, 10) : 0};
}

}  // namespace

void FileStore::quarantine(int file, const BlockPath& path, const uint8_t* key) {
  const std::lock_guard lock(quarantineMutex_);
  // Another thread may have moved it, and someone may have stored the block anew since.
  struct stat opened;
  struct stat named;
  if (io_.statFile(file, opened) < 0 || io_.statAt(blocks_.fd(), path.file, named) < 0 ||
      opened.st_ino != named.st_ino || opened.st_dev != named.st_dev) {
    return;
  }
  using namespace std::chrono;
  const auto ms = duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  char digits[2 * kKeyBytesMax + 1];
  writeHex(digits, key, options_.facts.keyBytes);
  const std::string name = options_.quarantineFolder + "/" + std::string(digits).substr(0, kKeyDigitsMax) + "." +
                           std::to_string(ms) + "-" + std::to_string(quarantineCounter_++) + ".kvb";
  int moved = -ENOENT;
  if (options_.quarantineFilesMax > 0) {
    moved = io_.rename(blocks_.fd(), path.file, AT_FDCWD, name.c_str());
    if (moved == -ENOENT) {
      try {
        openFolder(options_.quarantineFolder);
        moved = io_.rename(blocks_.fd(), path.file, AT_FDCWD, name.c_str());
      } catch (const Error&) {
        // It is removed below: a damaged block must not keep its place.
      }
    }
  }
  if (moved < 0 && io_.unlink(blocks_.fd(), path.file) < 0) return;
  counters_.quarantined.fetch_add(1, std::memory_order_relaxed);
  if (moved == 0) trimQuarantine();
}

void FileStore::trimQuarantine() {
  try {
    std::vector<std::string> names = list(options_.quarantineFolder).names;
    if (names.size() <= options_.quarantineFilesMax) return;
    std::sort(names.begin(), names.end(), [](const auto& a, const auto& b) { return orderOf(a) < orderOf(b); });
    for (size_t i = 0; i + options_.quarantineFilesMax < names.size(); i++) {
      io_.unlink(AT_FDCWD, (options_.quarantineFolder + "/" + names[i]).c_str());
    }
  } catch (const Error&) {
    // The next one tries again.
  }
}

}  // namespace kvferry
