#include "storage/owned_blocks.h"

#include <cstring>

namespace kvferry {

void OwnedBlocks::run(uint32_t unit, const uint8_t* key, uint8_t* payload, Region* region,
                      ThreadState& state) noexcept {
  try {
    if (load_) {
      load(unit, key, payload, region, state);
    } else {
      store(unit, key, payload, region, state);
    }
  } catch (...) {
    end(unit, failed(Code::Internal));  // out of memory
  }
}

void OwnedBlocks::load(uint32_t unit, const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state) {
  const size_t bytes = store_->options().facts.blockBytes;
  uint8_t* const own = state.block.reserve(bytes);
  BlockOutcome outcome = store_->load(key, own, nullptr, state);
  if (!claims_.enter(unit)) return;
  if (outcome.outcome == Outcome::Loaded) {
    std::memcpy(payload, own, bytes);
    if (region != nullptr && region->gone()) outcome = failed(Code::RegionGone);
  }
  outcomes_[unit] = outcome;
  claims_.end(unit);
}

void OwnedBlocks::store(uint32_t unit, const uint8_t* key, const uint8_t* payload, Region* region,
                        ThreadState& state) {
  const size_t bytes = store_->options().facts.blockBytes;
  uint8_t* const own = state.block.reserve(bytes);
  if (!claims_.enter(unit)) return;
  std::memcpy(own, payload, bytes);
  // What was taken away meanwhile was read as zeros.
  if (region != nullptr && region->gone()) {
    outcomes_[unit] = failed(Code::RegionGone);
    claims_.end(unit);
    return;
  }
  claims_.leave(unit);
  end(unit, store_->store(key, own, nullptr, state));
}

void OwnedBlocks::end(uint32_t unit, BlockOutcome outcome) noexcept {
  if (!claims_.enter(unit)) return;
  outcomes_[unit] = outcome;
  claims_.end(unit);
}

}  // namespace kvferry
