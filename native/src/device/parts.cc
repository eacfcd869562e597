#include "device/parts.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace kvferry {
namespace {

/** Host memory holds what others have left there: the pages of another tenant. */
void zeroGaps(const ChunkCopy& chunk, uint64_t partBytes) {
  uint64_t at = 0;
  for (uint32_t i = 0; i < chunk.count; i++) {
    const Fragment& fragment = chunk.fragments[i];
    if (fragment.hostAt > at) std::memset(chunk.host + at, 0, fragment.hostAt - at);
    at = fragment.hostAt + fragment.bytes;
  }
  if (at < partBytes) std::memset(chunk.host + at, 0, partBytes - at);
}

void copyAll(Device& device, const DeviceLayout& layout, Direction direction, const Part* parts, uint32_t count,
             BlockOutcome* outcomes) {
  std::vector<Fragment> fragments;
  std::vector<ChunkCopy> chunks(count);
  for (uint32_t i = 0; i < count; i++) {
    const size_t first = fragments.size();
    layout.addFragments(parts[i].group, parts[i].blocks, fragments);
    chunks[i].host = parts[i].host;
    chunks[i].count = static_cast<uint32_t>(fragments.size() - first);
  }
  const Fragment* next = fragments.data();
  for (ChunkCopy& chunk : chunks) {
    chunk.fragments = next;
    next += chunk.count;
    if (direction == Direction::Gather) zeroGaps(chunk, layout.partBytes());
  }
  device.copy(direction, chunks.data(), count, outcomes);
}

}  // namespace

void copyParts(Device& device, const DeviceLayout& layout, Direction direction, const Part* parts, uint32_t count,
               Region* region, BlockOutcome* outcomes) noexcept {
  if (region != nullptr && region->gone()) return void(std::fill_n(outcomes, count, failed(Code::RegionGone)));
  try {
    copyAll(device, layout, direction, parts, count, outcomes);
  } catch (const std::bad_alloc&) {
    std::fill_n(outcomes, count, failed(Code::Internal));
  }
  if (region == nullptr) return;
  // A page that was taken away was read as zeros, or written to a page that nobody else has; or a system call has met it.
  const bool anyFailed = std::any_of(outcomes, outcomes + count,
                                     [](const BlockOutcome& each) { return each.code == Code::DeviceFailed; });
  if (region->gone() || (anyFailed && region->checkGone())) std::fill_n(outcomes, count, failed(Code::RegionGone));
}

}  // namespace kvferry
