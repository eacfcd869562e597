// An engine for storage that can hang: work is given up at once, whatever its threads do, and threads that hang are replaced.
#pragma once

#include "engine/engine.h"

namespace kvferry {

struct AbandonOptions {
  /** A thread that is in one unit for so long counts as stuck. */
  uint32_t stuckAfterMs = 5000;
  /** Threads that are replaced while they are stuck. With more stuck than these, batches are refused. */
  uint32_t stuckThreadsMax = 32;
  /** What hangs so long after `close` is left behind. */
  uint32_t closeWaitMs = 1000;
};

class Crew;

/** `cancel` ends abandonable work by the time it returns, also what is under way. Threads are never waited for without limit: one that hangs in
 * the kernel owns all that it will touch when it comes back. */
class AbandonableEngine : public Executor {
 public:
  /** Starts the threads. Throws Error. */
  AbandonableEngine(const EngineOptions& options, const AbandonOptions& abandon);
  /** Closes, and waits for nothing. */
  ~AbandonableEngine() override;

  bool cancel(Work* work, Code why) override { return queue_->abandon(work, why); }
  EngineStats stats() const override;
  /** `done` is called when all threads have ended, or `closeWaitMs` later when the work of the others has been abandoned with CLOSED. */
  void close(std::function<void()> done) override;
  /** False if threads are left. 0: waits until they are, at the longest. */
  bool join(uint32_t timeoutMs) override { return queue_->waitForThreads(timeoutMs); }

 private:
  std::shared_ptr<Crew> crew_;
};

}  // namespace kvferry
