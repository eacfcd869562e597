#include "engine/engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <system_error>

namespace kvferry {
namespace {

/** Of 8 units taken while stores wait, one is a store: stores are slow under load, never starved. */
constexpr uint32_t kLoadsInARowMax = 7;

/** Signals are for Node's own threads; those that a fault raises in this thread cannot be blocked. */
void blockSignals() {
  sigset_t signals;
  sigfillset(&signals);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS}) sigdelset(&signals, fault);
  pthread_sigmask(SIG_SETMASK, &signals, nullptr);
}

}  // namespace

/** Shared by the engine and its threads, so that a thread left behind at exit has what it needs. */
class EngineCore {
 public:
  explicit EngineCore(const EngineOptions& options)
      : options_(options), storesMax_(options.threads - (options.threads > 1 ? std::max(1u, options.threads / 4) : 0)) {}

  Submitted submit(std::shared_ptr<Work> work);
  bool cancel(const Work* work, Code why);
  EngineStats stats() const;
  void close(std::function<void()> done);
  bool waitForThreads(uint32_t timeoutMs);
  void threadStarted();
  void threadMain();

 private:
  using Queue = std::deque<std::shared_ptr<Work>>;
  struct Unit {
    std::shared_ptr<Work> work;
    uint32_t index;
  };

  bool take(std::unique_lock<std::mutex>& lock, Unit& unit);
  Queue* pick();
  /** Takes all units that wait off the counts and skips them; true if the work is finished by that. */
  bool skipRest(Work& work, Code why);
  Queue& queueOf(const Work& work) { return work.priority == Priority::Load ? loads_ : stores_; }
  uint32_t& queuedOf(const Work& work) { return work.priority == Priority::Load ? queuedLoads_ : queuedStores_; }

  const EngineOptions options_;
  /** Threads that may store at a time: the rest is kept for loads, so that slow writes never hold up a load. */
  const uint32_t storesMax_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable ended_;
  Queue loads_;
  Queue stores_;
  uint32_t queuedLoads_ = 0;
  uint32_t queuedStores_ = 0;
  uint32_t running_ = 0;
  uint32_t runningStores_ = 0;
  uint32_t loadsInARow_ = 0;
  uint32_t alive_ = 0;
  bool closing_ = false;
  std::vector<std::function<void()>> closed_;
};

Submitted EngineCore::submit(std::shared_ptr<Work> work) {
  {
    const std::lock_guard lock(mutex_);
    if (closing_) return Submitted::Closed;
    const uint64_t depth = uint64_t{queuedLoads_} + queuedStores_ + running_ + work->units;
    if (depth > options_.queueDepthMax) return Submitted::Busy;
    if (work->units > 0) {
      queuedOf(*work) += work->units;
      queueOf(*work).push_back(work);
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

bool EngineCore::skipRest(Work& work, Code why) {
  const uint32_t count = work.units - work.next_;
  queuedOf(work) -= count;
  for (uint32_t unit = work.next_; unit < work.units; unit++) work.skip(unit, why);
  work.next_ = work.units;
  work.remaining_ -= count;
  return work.remaining_ == 0;
}

bool EngineCore::cancel(const Work* work, Code why) {
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

EngineStats EngineCore::stats() const {
  const std::lock_guard lock(mutex_);
  return {options_.threads, queuedLoads_, queuedStores_, running_};
}

void EngineCore::close(std::function<void()> done) {
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
    callNow = alive_ == 0;
    if (!callNow && done) closed_.push_back(std::move(done));
  }
  wake_.notify_all();
  for (const auto& work : finished) work->finish();
  if (callNow && done) done();
}

bool EngineCore::waitForThreads(uint32_t timeoutMs) {
  std::unique_lock lock(mutex_);
  const auto allEnded = [&] { return alive_ == 0; };
  if (timeoutMs == 0) {
    ended_.wait(lock, allEnded);
    return true;
  }
  return ended_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::milliseconds(timeoutMs), allEnded);
}

EngineCore::Queue* EngineCore::pick() {
  const bool storeReady = !stores_.empty() && runningStores_ < storesMax_;
  if (!loads_.empty() && (!storeReady || loadsInARow_ < kLoadsInARowMax)) {
    loadsInARow_ = storeReady ? loadsInARow_ + 1 : 0;
    return &loads_;
  }
  if (!storeReady) return nullptr;
  loadsInARow_ = 0;
  return &stores_;
}

bool EngineCore::take(std::unique_lock<std::mutex>& lock, Unit& unit) {
  Queue* queue;
  while ((queue = pick()) == nullptr) {
    if (closing_) return false;
    wake_.wait(lock);
  }
  std::shared_ptr<Work>& first = queue->front();
  unit.index = first->next_++;
  queuedOf(*first)--;
  running_++;
  if (first->priority == Priority::Store) runningStores_++;
  if (first->next_ < first->units) {
    unit.work = first;
  } else {
    unit.work = std::move(first);
    queue->pop_front();
  }
  return true;
}

void EngineCore::threadStarted() {
  const std::lock_guard lock(mutex_);
  alive_++;
}

void EngineCore::threadMain() {
  blockSignals();
  ThreadState state;
  std::unique_lock lock(mutex_);
  Unit unit;
  while (take(lock, unit)) {
    lock.unlock();
    unit.work->run(unit.index, state);
    lock.lock();
    running_--;
    if (unit.work->priority == Priority::Store) runningStores_--;
    const bool last = --unit.work->remaining_ == 0;
    if (last) {
      lock.unlock();
      unit.work->finish();
      unit.work.reset();
      lock.lock();
    }
    unit.work.reset();
  }
  std::vector<std::function<void()>> closed;
  if (--alive_ == 0) {
    closed.swap(closed_);
    ended_.notify_all();
  }
  lock.unlock();
  for (const auto& done : closed) done();
}

Engine::Engine(const EngineOptions& options) : core_(std::make_shared<EngineCore>(options)) {
  if (options.threads == 0 || options.threads > 1024) throw Error(Code::InvalidArgument, "threads must be 1 to 1024");
  if (options.queueDepthMax == 0) throw Error(Code::InvalidArgument, "queueDepthMax must be positive");
  try {
    for (uint32_t i = 0; i < options.threads; i++) {
      core_->threadStarted();
      threads_.emplace_back([core = core_, i] {
        const std::string name = "kvferry-io-" + std::to_string(i);
        pthread_setname_np(pthread_self(), name.c_str());
        core->threadMain();
      });
    }
  } catch (const std::system_error& error) {
    core_->close(nullptr);
    for (auto& thread : threads_) thread.join();
    throw Error::ofErrno(error.code().value(), "start I/O threads", "");
  }
}

Engine::~Engine() {
  close(nullptr);
  join(0);
}

Submitted Engine::submit(std::shared_ptr<Work> work) { return core_->submit(std::move(work)); }
bool Engine::cancel(const Work* work, Code why) { return core_->cancel(work, why); }
EngineStats Engine::stats() const { return core_->stats(); }
void Engine::close(std::function<void()> done) { core_->close(std::move(done)); }

bool Engine::join(uint32_t timeoutMs) {
  if (threads_.empty()) return true;
  const bool ended = core_->waitForThreads(timeoutMs);
  for (auto& thread : threads_) {
    if (ended) {
      thread.join();
    } else {
      thread.detach();
    }
  }
  threads_.clear();
  return ended;
}

}  // namespace kvferry
