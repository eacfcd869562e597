// A fixed number of threads that work off batches, loads before stores. It knows nothing of files.
#pragma once

#include <thread>

#include "engine/queue.h"

namespace kvferry {

struct EngineOptions {
  uint32_t threads = 4;
  /** Units waiting or running. */
  uint32_t queueDepthMax = 65536;
};

/** Runs batches. Of a thread that is left behind at exit, everything that it uses stays. */
class Executor {
 public:
  virtual ~Executor() = default;

  /** Takes the whole batch or nothing of it. A batch without units is finished at once. */
  Submitted submit(std::shared_ptr<Work> work) { return queue_->submit(std::move(work)); }
  /** Skips the units that no thread has taken. False if there are none (any more). The caller holds the work. */
  virtual bool cancel(Work* work, Code why) { return queue_->cancel(work, why); }
  virtual EngineStats stats() const { return queue_->stats(); }
  /** Skips what waits with CLOSED and lets the threads end after what they do now; `done` is called once by the last of
   * them (or here, if they have ended). Later calls only add another `done`. */
  virtual void close(std::function<void()> done) { queue_->close(std::move(done)); }
  /** Waits for the threads after `close`; false if some did not end in time. 0 waits without limit. A thread that hangs
   * in the kernel is left behind; it holds all that it uses. */
  virtual bool join(uint32_t timeoutMs);

 protected:
  explicit Executor(std::shared_ptr<WorkQueue> queue) : queue_(std::move(queue)) {}
  /** Starts a thread that runs `body`. Throws Error, after ending those that were started. */
  void start(const std::string& name, std::function<void()> body);

  const std::shared_ptr<WorkQueue> queue_;

 private:
  std::vector<std::thread> threads_;
};

/** Threads that block in what they do. */
class Engine : public Executor {
 public:
  /** Starts the threads. Throws Error. */
  explicit Engine(const EngineOptions& options);
  /** Closes and waits for the threads. */
  ~Engine() override;
};

}  // namespace kvferry
