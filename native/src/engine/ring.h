// A small wrapper over io_uring: one ring, used by the one thread that opened it. No library: four system calls and two queues.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>

namespace kvferry {

class Ring {
 public:
  /** For at most `entries` requests at a time. Throws Error UNSUPPORTED that says what the kernel refused. */
  explicit Ring(unsigned entries);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  /** A cleared entry, to be filled before the next `enter`. Never more than `entries` are asked for between two of them. */
  io_uring_sqe* next();
  /** Gives what was filled to the kernel and waits until `waitFor` requests have ended. 0 or -errno; EINTR is retried. */
  int enter(unsigned waitFor);
  /** Calls `each(userData, result)` for all that have ended. */
  template <typename Each>
  void forEachEnded(Each each) {
    unsigned head = *cqHead_;
    const unsigned tail = __atomic_load_n(cqTail_, __ATOMIC_ACQUIRE);
    for (; head != tail; head++) {
      const io_uring_cqe cqe = cqes_[head & cqMask_];
      // Before the call, which may fill new entries whose ends need this room.
      __atomic_store_n(cqHead_, head + 1, __ATOMIC_RELEASE);
      each(cqe.user_data, cqe.res);
    }
  }

  /** An empty table for registered memory. False where that is refused. */
  bool makeBufferTable(unsigned slots);
  /** Puts memory into a slot, or nothing (`bytes` 0); 0 or -errno. */
  int setBuffer(unsigned slot, void* memory, size_t bytes);

 private:
  void map(const io_uring_params& params);
  void unmap();

  int fd_ = -1;
  void* rings_ = nullptr;
  size_t ringsBytes_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  size_t sqesBytes_ = 0;
  unsigned* sqHead_ = nullptr;
  unsigned* sqTail_ = nullptr;
  unsigned* sqArray_ = nullptr;
  unsigned sqMask_ = 0;
  unsigned* cqHead_ = nullptr;
  unsigned* cqTail_ = nullptr;
  io_uring_cqe* cqes_ = nullptr;
  unsigned cqMask_ = 0;
  unsigned filled_ = 0;
  bool needsGetEvents_ = false;
};

}  // namespace kvferry
