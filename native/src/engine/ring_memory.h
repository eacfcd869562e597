// Regions' memory registered with a ring, so that no transfer has to look up and pin its pages. In chunks, at first use.
#pragma once

#include <atomic>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/ring.h"
#include "region/region.h"

namespace kvferry {

/** Registered at a time, on the ring's thread: what it pins takes a few milliseconds at most. */
constexpr uint64_t kChunkBytes = uint64_t{8} << 20;
/** Chunks that a ring has registered at most: 32 GiB of memory. */
constexpr unsigned kChunksMax = 4096;

class RingMemory {
 public:
  /** Registers nothing where the kernel has no table for it. `bytes`: counts what is registered. */
  RingMemory(Ring& ring, std::atomic<uint64_t>& bytes);
  ~RingMemory();

  /** The slot that holds all of [memory, memory + bytes), or -1. */
  int slotOf(const std::shared_ptr<Region>& region, const void* memory, size_t bytes);
  /** Lets go of the memory of regions that have ended. */
  void sweep();

 private:
  struct Chunk {
    std::weak_ptr<Region> region;
    /** -1: could not be registered. */
    int slot = -1;
    uint64_t bytes = 0;
  };
  struct Name {
    uint64_t region;
    uint64_t chunk;
    bool operator==(const Name&) const = default;
  };
  struct NameHash {
    size_t operator()(const Name& name) const { return name.region * 0x9e3779b97f4a7c15 + name.chunk; }
  };
  Chunk registered(const std::shared_ptr<Region>& region, uint64_t chunk);

  Ring& ring_;
  std::atomic<uint64_t>& registeredBytes_;
  std::unordered_map<Name, Chunk, NameHash> chunks_;
  std::vector<unsigned> freeSlots_;
};

}  // namespace kvferry
