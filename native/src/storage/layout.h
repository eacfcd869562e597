// Keys to paths, below the folder of a namespace's blocks.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvferry {

enum class Layout : uint8_t { Kvferry, VllmFs };

/** Paths of one block; made on the stack, without allocation. */
struct BlockPath {
  /** "<hh>/<key>.kvb" or "<hhh>/<hh>_g<group>/<hash>.bin". */
  char file[320];
  /** Length of the part of `file` before its last slash. */
  size_t folderLength;

  BlockPath(Layout layout, const uint8_t* key, size_t keyBytes);
};

/** Writes 2 × bytes hex digits and a final zero; returns the place of that zero. */
char* writeHex(char* to, const uint8_t* bytes, size_t count);

/** The longest key whose file name a file system takes (255 bytes). */
size_t keyBytesMaxOf(Layout layout);

}  // namespace kvferry
