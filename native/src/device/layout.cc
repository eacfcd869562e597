#include "device/layout.h"

#include <algorithm>
#include <string>

namespace kvferry {
namespace {

std::string tensorName(size_t number) { return "layout.tensors[" + std::to_string(number) + "]"; }

/** No step of this can overflow: what would be too much is found by division. */
void checkTensor(const DeviceTensor& tensor, size_t number, const std::vector<uint64_t>& memoryBytes) {
  const auto refuse = [&](const char* field, const std::string& problem) {
    throw Error::ofField(tensorName(number) + "." + field, problem);
  };
  if (tensor.memory >= memoryBytes.size()) {
    refuse("memory", "must be below " + std::to_string(memoryBytes.size()) + ", the number of memories");
  }
  const uint64_t bytes = memoryBytes[tensor.memory];
  if (tensor.pageBytes == 0) refuse("pageBytes", "must be positive");
  if (tensor.strideBytes < tensor.pageBytes) refuse("strideBytes", "must be at least pageBytes");
  if (tensor.pages == 0 || tensor.pages > kNoBlock) refuse("pages", "must be 1 to " + std::to_string(kNoBlock));
  if (tensor.offset > bytes) refuse("offset", "is beyond the memory's " + std::to_string(bytes) + " bytes");
  const uint64_t room = bytes - tensor.offset;
  if (room < tensor.pageBytes || tensor.pages - 1 > (room - tensor.pageBytes) / tensor.strideBytes) {
    refuse("pages", "do not fit: the memory has " + std::to_string(room) + " bytes from the offset on");
  }
}

}  // namespace

DeviceLayout::DeviceLayout(LayoutShape shape, const std::vector<uint64_t>& memoryBytes)
    : blocksPerChunk_(shape.blocksPerChunk) {
  if (blocksPerChunk_ == 0 || blocksPerChunk_ > kBlocksPerChunkMax) {
    throw Error::ofField("layout.blocksPerChunk", "must be 1 to " + std::to_string(kBlocksPerChunkMax));
  }
  if (shape.tensors.empty() || shape.tensors.size() > kTensorsMax) {
    throw Error::ofField("layout.tensors", "must be 1 to " + std::to_string(kTensorsMax));
  }
  if (shape.groups.empty() || shape.groups.size() > kGroupsMax) {
    throw Error::ofField("layout.groups", "must be 1 to " + std::to_string(kGroupsMax));
  }
  std::vector<uint64_t> columnAt;
  for (size_t i = 0; i < shape.tensors.size(); i++) {
    const DeviceTensor& tensor = shape.tensors[i];
    checkTensor(tensor, i, memoryBytes);
    if (tensor.pageBytes > (kPartBytesMax - partBytes_) / blocksPerChunk_) {
      throw Error::ofField(tensorName(i) + ".pageBytes",
                           "makes a chunk's part larger than " + std::to_string(kPartBytesMax) + " bytes");
    }
    columnAt.push_back(partBytes_);
    partBytes_ += tensor.pageBytes * blocksPerChunk_;
  }
  size_t uses = 0;
  for (uint32_t i = 0; i < shape.groups.size(); i++) {
    uses += shape.groups[i].size();
    if (uses > kGroupTensorsMax) {
      throw Error::ofField("layout.groups", "use more than " + std::to_string(kGroupTensorsMax) + " tensors in all");
    }
    groups_.push_back(groupOf(shape, i, columnAt));
  }
}

DeviceLayout::Group DeviceLayout::groupOf(const LayoutShape& shape, uint32_t number,
                                          const std::vector<uint64_t>& columnAt) const {
  const std::string name = "layout.groups[" + std::to_string(number) + "]";
  const std::vector<GroupTensor>& uses = shape.groups[number];
  if (uses.size() * uint64_t{blocksPerChunk_} > kPagesPerChunkMax) {
    throw Error::ofField(name, "has more than " + std::to_string(kPagesPerChunkMax) + " pages a chunk");
  }
  Group group{{}, kNoBlock};
  for (size_t i = 0; i < uses.size(); i++) {
    const auto refuse = [&](const char* field, const std::string& problem) {
      throw Error::ofField(name + "[" + std::to_string(i) + "]." + field, problem);
    };
    const GroupTensor& use = uses[i];
    if (use.tensor >= shape.tensors.size()) refuse("tensor", "must be below " + std::to_string(shape.tensors.size()));
    const DeviceTensor& tensor = shape.tensors[use.tensor];
    if (use.bytes == 0 || use.bytes > tensor.pageBytes) {
      refuse("bytes", "must be 1 to the tensor's pageBytes, " + std::to_string(tensor.pageBytes));
    }
    group.columns.push_back(
        {tensor.memory, tensor.offset, tensor.strideBytes, columnAt[use.tensor], tensor.pageBytes, use.bytes});
    group.pages = std::min(group.pages, tensor.pages);
  }
  std::sort(group.columns.begin(), group.columns.end(),
            [](const Column& a, const Column& b) { return a.hostAt < b.hostAt; });
  const auto twice = std::adjacent_find(group.columns.begin(), group.columns.end(),
                                        [](const Column& a, const Column& b) { return a.hostAt == b.hostAt; });
  if (twice != group.columns.end()) throw Error::ofField(name, "has a tensor twice");
  return group;
}

void DeviceLayout::addFragments(uint32_t group, const uint32_t* blocks, std::vector<Fragment>& fragments) const {
  // Only this chunk's fragments may be joined.
  const size_t first = fragments.size();
  for (const Column& column : groups_[group].columns) {
    for (uint32_t i = 0; i < blocksPerChunk_; i++) {
      if (blocks[i] == kNoBlock) continue;
      const uint64_t at = column.at + blocks[i] * column.strideBytes;
      const uint64_t hostAt = column.hostAt + i * column.pageBytes;
      if (fragments.size() > first) {
        Fragment& last = fragments.back();
        if (last.memory == column.memory && last.at + last.bytes == at && last.hostAt + last.bytes == hostAt) {
          last.bytes += column.bytes;
          continue;
        }
      }
      fragments.push_back({column.memory, at, hostAt, column.bytes});
    }
  }
}

}  // namespace kvferry
