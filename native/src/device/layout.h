// Where the KV pages of an engine are, how a chunk's part lies in host memory, and so which copies a chunk needs.
#pragma once

#include <cstdint>
#include <vector>

#include "device/device.h"

namespace kvferry {

/** A page that is not there. */
constexpr uint32_t kNoBlock = 0xffffffff;

constexpr uint32_t kTensorsMax = 16'384;
constexpr uint32_t kGroupsMax = 1024;
/** Of all groups together. */
constexpr uint32_t kGroupTensorsMax = 65'536;
constexpr uint32_t kBlocksPerChunkMax = 65'536;
/** Pages of one chunk: what a thread needs memory for while it copies. */
constexpr uint32_t kPagesPerChunkMax = 262'144;
constexpr uint64_t kPartBytesMax = uint64_t{1} << 40;

/** Page p is at `offset + p × strideBytes` of memory number `memory`. */
struct DeviceTensor {
  uint32_t memory = 0;
  uint64_t offset = 0;
  uint64_t strideBytes = 0;
  /** What a page takes in a chunk. */
  uint64_t pageBytes = 0;
  uint64_t pages = 0;
};

/** A tensor that a group uses, and how many bytes at the start of each page. */
struct GroupTensor {
  uint32_t tensor = 0;
  uint64_t bytes = 0;
};

/** DeviceLayout of types.ts, as it came. */
struct LayoutShape {
  std::vector<DeviceTensor> tensors;
  std::vector<std::vector<GroupTensor>> groups;
  uint32_t blocksPerChunk = 0;
};

/** A layout that has been checked: every page lies within its memory. */
class DeviceLayout {
 public:
  /** `memoryBytes`: of each of the device's memories. Throws Error INVALID_ARGUMENT that names the field. */
  DeviceLayout(LayoutShape shape, const std::vector<uint64_t>& memoryBytes);

  /** Bytes of a chunk's part. */
  uint64_t partBytes() const { return partBytes_; }
  uint32_t blocksPerChunk() const { return blocksPerChunk_; }
  uint32_t groups() const { return static_cast<uint32_t>(groups_.size()); }
  /** Page numbers of a group are below this. */
  uint64_t pagesOf(uint32_t group) const { return groups_[group].pages; }
  /** Adds the copies of a chunk, by rising `hostAt`. `blocks`: blocksPerChunk page numbers below `pagesOf(group)`, or kNoBlock. */
  void addFragments(uint32_t group, const uint32_t* blocks, std::vector<Fragment>& fragments) const;

 private:
  /** A tensor as a group uses it. */
  struct Column {
    uint32_t memory;
    uint64_t at;
    uint64_t strideBytes;
    uint64_t hostAt;
    uint64_t pageBytes;
    uint64_t bytes;
  };
  struct Group {
    std::vector<Column> columns;
    uint64_t pages;
  };

  Group groupOf(const LayoutShape& shape, uint32_t number, const std::vector<uint64_t>& columnAt) const;

  uint32_t blocksPerChunk_;
  uint64_t partBytes_ = 0;
  std::vector<Group> groups_;
};

}  // namespace kvferry
