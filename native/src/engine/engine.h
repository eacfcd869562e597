// A fixed number of threads that work off batches, loads before stores. It knows nothing of files.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/aligned.h"
#include "common/codes.h"

namespace kvferry {

enum class Priority : uint8_t { Load, Store };

/** What each thread owns, so that no unit allocates. */
struct ThreadState {
  /** One block with its footer, where the caller's memory cannot be used as it is. */
  AlignedBuffer bounce;
  /** A page of padding, then a footer. */
  AlignedBuffer footer;
};

/** A batch: `units` pieces of work that any thread may take in any order. One allocation, made by the submitter. */
class Work {
 public:
  Work(Priority priority, uint32_t units) : priority(priority), units(units), remaining_(units) {}
  virtual ~Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  /** Does unit i. Called once for each unit unless `skip` is. */
  virtual void run(uint32_t unit, ThreadState& state) noexcept = 0;
  /** Unit i will not be done, because of `why`. */
  virtual void skip(uint32_t unit, Code why) noexcept = 0;
  /** All units are done or skipped. The last call, on any thread, never with a lock held. */
  virtual void finish() noexcept = 0;

  const Priority priority;
  const uint32_t units;

 private:
  friend class EngineCore;
  uint32_t next_ = 0;       // first unit that no thread has taken
  uint32_t remaining_ = 0;  // units not yet done or skipped
};

struct EngineOptions {
  uint32_t threads = 4;
  /** Units waiting or running. */
  uint32_t queueDepthMax = 65536;
};

struct EngineStats {
  uint32_t threads;
  uint32_t queuedLoads;
  uint32_t queuedStores;
  uint32_t running;
};

enum class Submitted : uint8_t { Accepted, Busy, Closed };

class EngineCore;

class Engine {
 public:
  /** Starts the threads. Throws Error. */
  explicit Engine(const EngineOptions& options);
  /** Closes and waits for the threads. */
  ~Engine();

  /** Takes the whole batch or nothing of it. A batch without units is finished at once. */
  Submitted submit(std::shared_ptr<Work> work);
  /** Skips the units that no thread has taken. False if there are none (any more). */
  bool cancel(const Work* work, Code why);
  EngineStats stats() const;

  /** Skips what waits with CLOSED and lets the threads end after what they do now; `done` is called once by the last of
   * them (or here, if they have ended). Later calls only add another `done`. */
  void close(std::function<void()> done);
  /** Waits for the threads after `close`; false if some did not end in time. 0 waits without limit. A thread that hangs
   * in the kernel is left behind; it holds all that it uses. */
  bool join(uint32_t timeoutMs);

 private:
  std::shared_ptr<EngineCore> core_;
  std::vector<std::thread> threads_;
};

}  // namespace kvferry
