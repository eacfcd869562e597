// Who may still decide how a unit ends, and touch the caller's memory for it: the thread that runs it, or the one who gives it up.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace kvferry {

class Claims {
 public:
  explicit Claims(uint32_t units) : states_(units) {}

  /** From now to `leave` or `end` the caller's memory is there. False: the unit has been given up. */
  bool enter(uint32_t unit) noexcept {
    uint8_t open = kOpen;
    return states_[unit].compare_exchange_strong(open, kInside, std::memory_order_acquire);
  }
  void leave(uint32_t unit) noexcept { states_[unit].store(kOpen, std::memory_order_release); }
  /** The unit has its outcome. */
  void end(uint32_t unit) noexcept { states_[unit].store(kEnded, std::memory_order_release); }

  /** Gives up all that have not ended, and calls `each(unit)` for them. Waits for those inside: they copy memory, and do no I/O. */
  template <typename Each>
  void abandon(Each each) noexcept {
    for (uint32_t unit = 0; unit < states_.size(); unit++) {
      while (true) {
        uint8_t state = kOpen;
        if (states_[unit].compare_exchange_strong(state, kAbandoned, std::memory_order_acq_rel)) {
          each(unit);
          break;
        }
        if (state != kInside) break;
        sched_yield();
      }
    }
  }

 private:
  static constexpr uint8_t kOpen = 0;
  static constexpr uint8_t kInside = 1;
  static constexpr uint8_t kEnded = 2;
  static constexpr uint8_t kAbandoned = 3;

  std::vector<std::atomic<uint8_t>> states_;
};

}  // namespace kvferry
