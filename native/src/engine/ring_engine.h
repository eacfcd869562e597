// An engine for batches whose units are transfers: a few threads, each with a ring of its own in which many transfers run at a time.
// What a unit computes (`meanwhile`) is done while transfers run.
#pragma once

#include <atomic>

#include "engine/engine.h"

namespace kvferry {

struct RingOptions {
  uint32_t threads = 2;
  /** Transfers at a time, of all threads together. */
  uint32_t depth = 64;
  /** Units waiting or running. */
  uint32_t queueDepthMax = 65536;
};

class RingEngine : public Executor {
 public:
  /** Starts the threads. Throws Error UNSUPPORTED that says why io_uring cannot be used here. */
  explicit RingEngine(const RingOptions& options);
  /** Closes and waits for the threads. */
  ~RingEngine() override;

  /** Bytes of memory registered with the rings; each ring counts its own. */
  uint64_t registeredBytes() const { return registeredBytes_->load(std::memory_order_relaxed); }

 private:
  const std::shared_ptr<std::atomic<uint64_t>> registeredBytes_ = std::make_shared<std::atomic<uint64_t>>(0);
};

}  // namespace kvferry
