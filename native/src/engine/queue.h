// The order in which engines take units: loads before stores, bounded, cancellable. It knows nothing of what units do.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "engine/work.h"

namespace kvferry {

struct EngineStats {
  uint32_t threads;
  uint32_t queuedLoads;
  uint32_t queuedStores;
  uint32_t running;
  /** Threads that have been in one unit for too long, where anyone looks. */
  uint32_t stuckThreads = 0;
};

enum class Submitted : uint8_t { Accepted, Busy, Closed, Unavailable };

/** A unit that a thread has taken. */
struct Unit {
  std::shared_ptr<Work> work;
  uint32_t index = 0;
};

/** A thread that waits somewhere else than in the queue, and must be told there. */
class Sleeper {
 public:
  virtual ~Sleeper() = default;
  /** Any thread, with the queue's lock held: does not block, nor call the queue. */
  virtual void wake() noexcept = 0;

 private:
  friend class WorkQueue;
  bool asleep_ = false;
};

class WorkQueue {
 public:
  /** `atOnce`: units that all threads together work on at a time. A quarter of that is never given to stores, so that slow writes hold
   * up no load. */
  WorkQueue(uint32_t queueDepthMax, uint32_t atOnce);

  /** Takes the whole batch or nothing of it. A batch without units is finished at once. */
  Submitted submit(std::shared_ptr<Work> work);
  /** Skips the units that no thread has taken. False if there are none (any more). */
  bool cancel(const Work* work, Code why);
  /** As `cancel`; work that is abandonable is finished by this, and its units under way are given up. */
  bool abandon(Work* work, Code why);
  /** Whether batches are taken at all. */
  void setAvailable(bool available);
  EngineStats stats() const;
  /** Skips what waits with CLOSED and lets the threads end after what they do now; `done` is called once by the last of
   * them (or here, if they have ended). Later calls only add another `done`. */
  void close(std::function<void()> done);
  /** After `close`: waits no longer for threads that have not ended. */
  void leaveThreads();

  // For the threads.
  void threadStarted();
  /** The thread's last call. */
  void threadEnded();
  /** Ends the unit, if it holds one, and waits for another; false when there will be no more. */
  bool next(Unit& unit);
  /** Takes a unit if there is one for it. */
  bool tryTake(Unit& unit);
  void finished(Unit& unit);
  bool closing() const;
  /** From now on the sleeper is woken when there may be something for it; false if there is something already. */
  bool sleep(Sleeper& sleeper);
  void awake(Sleeper& sleeper);
  /** No longer to be woken; the sleeper may be destroyed. */
  void forget(Sleeper& sleeper);

  /** Waits until all threads have ended or are left; false if some did not in time, or are left. 0 waits without limit. */
  bool waitForThreads(uint32_t timeoutMs);

 private:
  using Queue = std::deque<std::shared_ptr<Work>>;

  Queue* pick();
  void takeFrom(Queue& queue, Unit& unit);
  /** Ends the unit with the lock held; true if its work is finished by that. */
  bool endUnit(Unit& unit);
  void wakeSleepers();
  /** Takes all units that wait off the counts and skips them; true if the work is finished by that. */
  bool skipRest(Work& work, Code why);
  Queue& queueOf(const Work& work) { return work.priority == Priority::Load ? loads_ : stores_; }
  uint32_t& queuedOf(const Work& work) { return work.priority == Priority::Load ? queuedLoads_ : queuedStores_; }

  const uint32_t queueDepthMax_;
  const uint32_t storesMax_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable ended_;
  Queue loads_;
  Queue stores_;
  std::vector<Sleeper*> sleepers_;
  uint32_t queuedLoads_ = 0;
  uint32_t queuedStores_ = 0;
  uint32_t running_ = 0;
  uint32_t runningStores_ = 0;
  uint32_t loadsInARow_ = 0;
  uint32_t threads_ = 0;
  uint32_t alive_ = 0;
  bool closing_ = false;
  bool available_ = true;
  bool left_ = false;
  std::vector<std::function<void()>> closed_;
};

/** Signals are for Node's own threads; those that a fault raises in this thread cannot be blocked. */
void blockSignals();

}  // namespace kvferry
