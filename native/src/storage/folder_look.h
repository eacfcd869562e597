// Looking at folders that other hosts write too, past what this host's kernel has cached of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvferry {

/** What tells that a folder has changed: names that came or went move its times. */
struct FolderStamp {
  /** An errno; 0 for a folder that was seen. */
  int error = 0;
  int64_t changedNs = 0;
  int64_t modifiedNs = 0;
  uint64_t bytes = 0;
  uint64_t links = 0;
  /** How many names at the end of the path are not there: the stamp is that of the deepest folder that is. */
  uint32_t missing = 0;
};

/** Asks the file system's server, whatever the cache says. A kernel's "not there" is believed only after the folder above was asked for, which
 * ends what was cached of its names if it has changed.
 * @param base a folder's descriptor, `path` is relative to it.
 * @param touch give the folder a new time first: even another change within the same tick of the server's clock then shows. */
FolderStamp stampFolder(int base, const std::string& path, bool touch) noexcept;

/** The keys whose blocks have a name in `<base>/<hh>` (layout kvferry), packed: names only, no file is looked at. A folder that is missing is
 * empty. Throws Error. */
std::vector<uint8_t> keysInFolder(int base, const std::string& folder, size_t keyBytes);

}  // namespace kvferry
