// Makes memory present before it is needed, on a thread of its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

namespace kvferry {

/** What is made present at a time: ending waits for one of them at most. */
constexpr size_t kPopulateStepBytes = 4 * 1024 * 1024;

class Populator {
 public:
  /** `fd` is of the file behind the whole mapping, from its offset 0. Contents are left as they are, whoever writes meanwhile. Where the
   * system cannot do it, or has no memory for it, pages come at their first touch as ever. */
  Populator(void* mapping, size_t bytes, int fd);
  /** Stops, and waits for the step under way. The mapping must still be there. */
  ~Populator();
  Populator(const Populator&) = delete;
  Populator& operator=(const Populator&) = delete;

  /** Bytes done so far. */
  size_t doneBytes() const { return done_.load(std::memory_order_relaxed); }

 private:
  void run(uint8_t* mapping, size_t bytes, int fd);

  std::atomic<bool> stop_{false};
  std::atomic<size_t> done_{0};
  std::thread thread_;
};

}  // namespace kvferry
