// The few calls on paths that a store's owner needs besides blocks, for threads that may hang in them. All throw Error with the errno.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "storage/io.h"

namespace kvferry {

struct PathFacts {
  double bytes = 0;
  double modifiedAtMs = 0;
};

/** `mkdir -p`; 0 or -errno. */
int makeFolders(Io& io, const std::string& path, mode_t mode);

/** All names in a folder. */
std::vector<std::string> namesIn(const std::string& folder);
/** The first `bytesMax` bytes of a file. */
std::vector<uint8_t> readFile(const std::string& path, uint64_t bytesMax);
/** Makes the file, or replaces what it holds unless it must be new. */
void writeFile(const std::string& path, const std::vector<uint8_t>& bytes, bool mustBeNew, mode_t mode);
void renamePath(const std::string& from, const std::string& to);
/** A file, or a folder with all that is in it. What is not there is gone already. */
void removeTree(const std::string& path);
PathFacts factsOf(const std::string& path);
/** The magic of statfs(2). */
int64_t fileSystemOf(const std::string& path);
/** Sets the modification time. */
void touchPath(const std::string& path, double ms);
/** `mode` of access(2). */
void checkAccess(const std::string& path, int mode);

}  // namespace kvferry
