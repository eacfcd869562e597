#include "engine/queue.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <utility>

namespace kvferry {
namespace {

/** Of 8 units taken while stores wait, one is a store: stores are slow under load, never starved. */
constexpr uint32_t kLoadsInARowMax = 7;

}  // namespace

void blockSignals() {
  sigset_t signals;
  sigfillset(&signals);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&signals, fault);
  pthread_sigmask(SIG_SETMASK, &signals, nullptr);
}

WorkQueue::WorkQueue(uint32_t queueDepthMax, uint32_t atOnce)
    : queueDepthMax_(queueDepthMax), storesMax_(atOnce - (atOnce > 1 ? std::max(1u, atOnce / 4) : 0)) {}

Submitted WorkQueue::submit(std::shared_ptr<Work> work) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return Submitted::Closed;
    if (!available_) return Submitted::Unavailable;
    const uint64_t depth = uint64_t{queuedLoads_} + queuedStores_ + running_ + work->units;
    if (depth > queueDepthMax_) return Submitted::Busy;
    if (work->units > 0) {
      queuedOf(*work) += work->units;
      queueOf(*work).push_back(work);
      wakeSleepers();
    }
  }
  if (work->units == 0) {
    work->finish();
  } else if (work->units == 1) {
    wake_.notify_one();
  } else {
    wake_.notify_all();
  }
  return Submitted::Accepted;
}

void WorkQueue::wakeSleepers() {
  for (Sleeper* const sleeper : sleepers_) {
    if (!std::exchange(sleeper->asleep_, false)) continue;
    sleeper->wake();
  }
}

bool WorkQueue::skipRest(Work& work, Code why) {
  const uint32_t count = work.units - work.next_;
  queuedOf(work) -= count;
  for (uint32_t unit = work.next_; unit < work.units; unit++) work.skip(unit, why);
  work.next_ = work.units;
  work.remaining_ -= count;
  return work.remaining_ == 0;
}

bool WorkQueue::cancel(const Work* work, Code why) {
  std::shared_ptr<Work> found;
  {
    const std::lock_guard lock(mutex_);
    Queue& queue = queueOf(*work);
    const auto place = std::find_if(queue.begin(), queue.end(), [&](const auto& each) { return each.get() == work; });
    if (place == queue.end()) return false;
    found = std::move(*place);
    queue.erase(place);
    if (!skipRest(*found, why)) return true;
  }
  found->finish();
  return true;
}

bool WorkQueue::abandon(Work* work, Code why) {
  if (!work->isAbandonable()) return cancel(work, why);
  std::shared_ptr<Work> found;
  {
    const std::lock_guard lock(mutex_);
    Queue& queue = queueOf(*work);
    const auto place = std::find_if(queue.begin(), queue.end(), [&](const auto& each) { return each.get() == work; });
    if (place != queue.end()) {
      found = std::move(*place);
      queue.erase(place);
      skipRest(*work, why);
    } else if (work->next_ == 0) {
      return false;  // it was refused
    } else if (work->remaining_ == 0) {
      return false;
    }
    running_ -= work->remaining_;
    // Threads that hang in stores keep no other from storing.
    if (work->priority == Priority::Store) runningStores_ -= work->remaining_;
    work->remaining_ = 0;
    work->abandoned_ = true;
  }
  wake_.notify_all();
  work->abandon(why);
  work->finish();
  return true;
}

void WorkQueue::setAvailable(bool available) {
  const std::lock_guard lock(mutex_);
  available_ = available;
}

EngineStats WorkQueue::stats() const {
  const std::lock_guard lock(mutex_);
  return {threads_, queuedLoads_, queuedStores_, running_};
}

void WorkQueue::close(std::function<void()> done) {
  Queue finished;
  bool callNow = false;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    for (Queue* queue : {&loads_, &stores_}) {
      for (auto& work : *queue) {
        if (skipRest(*work, Code::Closed)) finished.push_back(std::move(work));
      }
      queue->clear();
    }
    wakeSleepers();
    callNow = alive_ == 0 || left_;
    if (!callNow && done) closed_.push_back(std::move(done));
  }
  wake_.notify_all();
  for (const auto& work : finished) work->finish();
  if (callNow && done) done();
}

void WorkQueue::leaveThreads() {
  std::vector<std::function<void()>> closed;
  {
    const std::lock_guard lock(mutex_);
    left_ = true;
    closed.swap(closed_);
    ended_.notify_all();
  }
  for (const auto& done : closed) done();
}

bool WorkQueue::waitForThreads(uint32_t timeoutMs) {
  std::unique_lock lock(mutex_);
  const auto over = [&] { return alive_ == 0 || left_; };
  if (timeoutMs == 0) {
    ended_.wait(lock, over);
  } else {
    ended_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::milliseconds(timeoutMs), over);
  }
  return alive_ == 0;
}

WorkQueue::Queue* WorkQueue::pick() {
  const bool storeReady = !stores_.empty() && runningStores_ < storesMax_;
  if (!loads_.empty() && (!storeReady || loadsInARow_ < kLoadsInARowMax)) {
    loadsInARow_ = storeReady ? loadsInARow_ + 1 : 0;
    return &loads_;
  }
  if (!storeReady) return nullptr;
  loadsInARow_ = 0;
  return &stores_;
}

void WorkQueue::takeFrom(Queue& queue, Unit& unit) {
  std::shared_ptr<Work>& first = queue.front();
  unit.index = first->next_++;
  queuedOf(*first)--;
  running_++;
  if (first->priority == Priority::Store) runningStores_++;
  if (first->next_ < first->units) {
    unit.work = first;
  } else {
    unit.work = std::move(first);
    queue.pop_front();
  }
}

bool WorkQueue::endUnit(Unit& unit) {
  if (unit.work->abandoned_) return false;
  running_--;
  // A store that ends may let another begin, which a thread that sleeps must hear of.
  if (unit.work->priority == Priority::Store && runningStores_-- == storesMax_ && !stores_.empty()) wakeSleepers();
  return --unit.work->remaining_ == 0;
}

bool WorkQueue::next(Unit& unit) {
  std::unique_lock lock(mutex_);
  if (unit.work) {
    const bool last = endUnit(unit);
    if (last) {
      lock.unlock();
      unit.work->finish();
      unit.work.reset();
      lock.lock();
    }
    unit.work.reset();
  }
  Queue* queue;
  while ((queue = pick()) == nullptr) {
    if (closing_) return false;
    wake_.wait(lock);
  }
  takeFrom(*queue, unit);
  return true;
}

bool WorkQueue::tryTake(Unit& unit) {
  const std::lock_guard lock(mutex_);
  Queue* const queue = pick();
  if (queue == nullptr) return false;
  takeFrom(*queue, unit);
  return true;
}

void WorkQueue::finished(Unit& unit) {
  bool last;
  {
    const std::lock_guard lock(mutex_);
    last = endUnit(unit);
  }
  if (last) unit.work->finish();
  unit.work.reset();
}

bool WorkQueue::closing() const {
  const std::lock_guard lock(mutex_);
  return closing_;
}

bool WorkQueue::sleep(Sleeper& sleeper) {
  const std::lock_guard lock(mutex_);
  const bool storeReady = !stores_.empty() && runningStores_ < storesMax_;
  if (!loads_.empty() || storeReady || closing_) return false;
  if (std::find(sleepers_.begin(), sleepers_.end(), &sleeper) == sleepers_.end()) sleepers_.push_back(&sleeper);
  sleeper.asleep_ = true;
  return true;
}

void WorkQueue::awake(Sleeper& sleeper) {
  const std::lock_guard lock(mutex_);
  sleeper.asleep_ = false;
}

void WorkQueue::forget(Sleeper& sleeper) {
  const std::lock_guard lock(mutex_);
  std::erase(sleepers_, &sleeper);
}

void WorkQueue::threadStarted() {
  const std::lock_guard lock(mutex_);
  alive_++;
  threads_++;
}

void WorkQueue::threadEnded() {
  std::vector<std::function<void()>> closed;
  {
    const std::lock_guard lock(mutex_);
    if (--alive_ == 0) {
      closed.swap(closed_);
      ended_.notify_all();
    }
  }
  // What it would have taken next: the others may sleep because it was the only one that might store.
  wake_.notify_one();
  for (const auto& done : closed) done();
}

}  // namespace kvferry
