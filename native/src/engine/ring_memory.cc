#include "engine/ring_memory.h"

#include <algorithm>

namespace kvferry {

RingMemory::RingMemory(Ring& ring, std::atomic<uint64_t>& bytes) : ring_(ring), registeredBytes_(bytes) {
  if (!ring_.makeBufferTable(kChunksMax)) return;
  for (unsigned slot = kChunksMax; slot > 0; slot--) freeSlots_.push_back(slot - 1);
}

RingMemory::~RingMemory() {
  for (const auto& [name, chunk] : chunks_) registeredBytes_.fetch_sub(chunk.bytes, std::memory_order_relaxed);
}

int RingMemory::slotOf(const std::shared_ptr<Region>& region, const void* memory, size_t bytes) {
  const auto offset = static_cast<uint64_t>(static_cast<const uint8_t*>(memory) - region->data());
  const uint64_t chunk = offset / kChunkBytes;
  // What crosses a border goes the plain way.
  if ((offset + bytes - 1) / kChunkBytes != chunk) return -1;
  const Name name{region->id(), chunk};
  const auto found = chunks_.find(name);
  if (found != chunks_.end()) return found->second.slot;
  return chunks_.emplace(name, registered(region, chunk)).first->second.slot;
}

RingMemory::Chunk RingMemory::registered(const std::shared_ptr<Region>& region, uint64_t chunk) {
  Chunk result{region, -1, 0};
  if (freeSlots_.empty()) return result;
  const uint64_t start = chunk * kChunkBytes;
  const uint64_t bytes = std::min(kChunkBytes, region->bytes() - start);
  // Refused where it would pin more than RLIMIT_MEMLOCK allows: then this chunk goes the plain way for good.
  if (ring_.setBuffer(freeSlots_.back(), region->data() + start, bytes) < 0) return result;
  result.slot = static_cast<int>(freeSlots_.back());
  result.bytes = bytes;
  freeSlots_.pop_back();
  registeredBytes_.fetch_add(bytes, std::memory_order_relaxed);
  return result;
}

void RingMemory::sweep() {
  for (auto each = chunks_.begin(); each != chunks_.end();) {
    if (!each->second.region.expired()) {
      ++each;
      continue;
    }
    if (each->second.slot >= 0) {
      const auto slot = static_cast<unsigned>(each->second.slot);
      // One that cannot be emptied is not used again.
      if (ring_.setBuffer(slot, nullptr, 0) == 0) freeSlots_.push_back(slot);
      registeredBytes_.fetch_sub(each->second.bytes, std::memory_order_relaxed);
    }
    each = chunks_.erase(each);
  }
}

}  // namespace kvferry
