// What calls do in a folder, tried on files made for it.
#pragma once

#include <cstdint>
#include <string>

namespace kvferry {

/** Of the first eight: 0 works, else the errno that the call gave (or EIO where it did the wrong thing without saying so). */
struct FileFeatures {
  int exclusiveCreate = 0;
  int renameOver = 0;
  int hardLink = 0;
  int unnamedFile = 0;
  int userXattr = 0;
  int fallocate = 0;
  int punchHole = 0;
  int direct = 0;
  uint32_t directAlignmentBytes = 0;
  uint32_t directTransferBytes = 0;
  uint32_t transferBytes = 0;
  uint64_t timestampStepNs = 0;
};

/** Asked of one read. */
constexpr uint32_t kTransferAskedBytes = 4 << 20;

/** Tries everything in a folder of its own below `folder`, which is removed afterwards. Blocks. Throws Error where not even a file can be made. */
FileFeatures tryFileFeatures(const std::string& folder);

}  // namespace kvferry
