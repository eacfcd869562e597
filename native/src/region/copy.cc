#include "region/copy.h"

#include <algorithm>
#include <cstring>

#include "checksum/crc32c.h"

namespace kvferry {

uint32_t copyWithChecksum(const uint8_t* from, uint8_t* to, size_t bytes) {
  uint32_t checksum = 0;
  while (bytes > 0) {
    const size_t piece = std::min(bytes, kCopyPieceBytes);
    std::memmove(to, from, piece);
    // Of the copy: whoever changes the source meanwhile changes what is stored, not what its checksum is of.
    checksum = crc32c(to, piece, checksum);
    from += piece;
    to += piece;
    bytes -= piece;
  }
  return checksum;
}

BlockOutcome copyBlock(const CopySide& from, uint32_t fromSlot, const CopySide& to, uint32_t toSlot, size_t bytes,
                       bool verify, uint32_t& checksum) {
  if (from.gone() || to.gone()) return failed(Code::RegionGone);
  const uint32_t found = copyWithChecksum(from.row(fromSlot), to.row(toSlot), bytes);
  // A page that was taken away was read as zeros, or written to a page that nobody else has.
  if (from.gone() || to.gone()) return failed(Code::RegionGone);
  if (!verify) {
    checksum = found;
    return {Outcome::Stored, Code::None};
  }
  if (checksum != found) return {Outcome::Corrupt, Code::Corrupt};
  return {Outcome::Loaded, Code::None};
}

}  // namespace kvferry
