// Stores and loads of a file store that can be given up while they hang: all I/O is done in memory of the threads.
#pragma once

#include <vector>

#include "storage/file_store.h"
#include "engine/claims.h"

namespace kvferry {

class OwnedBlocks {
 public:
  OwnedBlocks(std::shared_ptr<FileStore> store, bool load, uint32_t count)
      : store_(std::move(store)), load_(load), claims_(count), outcomes_(count) {}

  /** Does block `unit`, as the file store does. Touches `payload` and `region` only while the unit has not been given up. */
  void run(uint32_t unit, const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state) noexcept;
  /** No thread runs it, nor will. */
  void skip(uint32_t unit, Code why) noexcept { outcomes_[unit] = failed(why); }
  /** What has not ended ends as FAILED; its memory is not touched any more. A file may still be stored. */
  void abandon(Code why) noexcept {
    claims_.abandon([&](uint32_t unit) { outcomes_[unit] = failed(why); });
  }
  /** To be looked at when all units have ended, or after `abandon`. */
  const std::vector<BlockOutcome>& outcomes() const { return outcomes_; }

 private:
  void load(uint32_t unit, const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state);
  void store(uint32_t unit, const uint8_t* key, const uint8_t* payload, Region* region, ThreadState& state);
  void end(uint32_t unit, BlockOutcome outcome) noexcept;

  const std::shared_ptr<FileStore> store_;
  const bool load_;
  Claims claims_;
  std::vector<BlockOutcome> outcomes_;
};

}  // namespace kvferry
