#include "engine/abandonable_engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <list>
#include <optional>
#include <system_error>

namespace kvferry {

using Clock = std::chrono::steady_clock;

/** The threads of an engine, and one more that watches them. All of them are detached and hold the crew. */
class Crew : public std::enable_shared_from_this<Crew> {
 public:
  Crew(std::shared_ptr<WorkQueue> queue, uint32_t threads, const AbandonOptions& options)
      : queue_(std::move(queue)), threads_(threads), options_(options) {}

  /** Throws std::system_error after as many as could be started. */
  void start() {
    const std::lock_guard lock(mutex_);
    for (uint32_t i = 0; i < threads_; i++) addThread();
    detached("kvferry-watch", [crew = shared_from_this()] { crew->watch(); });
  }

  uint32_t stuck() const {
    const std::lock_guard lock(mutex_);
    return stuck_;
  }
  uint32_t threads() const {
    const std::lock_guard lock(mutex_);
    return static_cast<uint32_t>(members_.size());
  }

  void close() {
    const std::lock_guard lock(mutex_);
    if (!leaveAt_) leaveAt_ = Clock::now() + std::chrono::milliseconds(options_.closeWaitMs);
    look_.notify_all();
  }

 private:
  struct Member {
    /** What it does now, or nothing. */
    std::shared_ptr<Work> work;
    Clock::time_point since;
    bool stuck = false;
  };
  using Members = std::list<Member>;

  template <typename Body>
  static void detached(const std::string& name, Body body) {
    std::thread([name, body = std::move(body)] {
      pthread_setname_np(pthread_self(), name.c_str());
      blockSignals();
      body();
    }).detach();
  }

  /** With the lock held. */
  void addThread() {
    const auto member = members_.emplace(members_.end());
    queue_->threadStarted();
    try {
      const std::string name = "kvferry-ab-" + std::to_string(started_++ % 10'000);
      detached(name, [crew = shared_from_this(), member] { crew->work(member); });
    } catch (...) {
      members_.erase(member);
      queue_->threadEnded();
      throw;
    }
  }

  void work(Members::iterator member) {
    {
      ThreadState state;
      Unit unit;
      while (queue_->next(unit)) {
        begun(*member, unit.work);
        unit.work->run(unit.index, state);
        const bool goesOn = mayGoOn(*member);
        // Not left to `next`: of abandoned work this may be the last reference, and its end closes descriptors.
        queue_->finished(unit);
        if (!goesOn) break;
      }
    }
    {
      const std::lock_guard lock(mutex_);
      members_.erase(member);
      look_.notify_all();
    }
    queue_->threadEnded();
  }

  void begun(Member& member, const std::shared_ptr<Work>& work) {
    const std::lock_guard lock(mutex_);
    member.work = work;
    member.since = Clock::now();
  }

  /** The unit has come to its end. False where another thread has taken this one's place for good. */
  bool mayGoOn(Member& member) {
    const std::lock_guard lock(mutex_);
    member.work.reset();
    if (!member.stuck) return true;
    member.stuck = false;
    stuck_--;
    queue_->setAvailable(stuck_ <= options_.stuckThreadsMax);
    return members_.size() - stuck_ <= threads_;
  }

  void watch() {
    const auto pause = std::chrono::milliseconds(std::max(5u, std::min(250u, options_.stuckAfterMs / 4)));
    std::unique_lock lock(mutex_);
    while (!members_.empty()) {
      look_.wait_until(lock, std::chrono::system_clock::now() + pause);
      findStuck();
      if (!leaveAt_) {
        replaceStuck();
      } else if (Clock::now() >= *leaveAt_ && onlyAbandonableLeft()) {
        break;
      }
    }
    std::vector<std::shared_ptr<Work>> left;
    for (const Member& member : members_) {
      if (member.work) left.push_back(member.work);
    }
    lock.unlock();
    for (const auto& work : left) queue_->abandon(work.get(), Code::Closed);
    queue_->leaveThreads();
  }

  /** Other work copies memory and will end. */
  bool onlyAbandonableLeft() const {
    return std::all_of(members_.begin(), members_.end(),
                       [](const Member& member) { return !member.work || member.work->isAbandonable(); });
  }

  void findStuck() {
    const auto before = Clock::now() - std::chrono::milliseconds(options_.stuckAfterMs);
    for (Member& member : members_) {
      if (!member.work || member.stuck || member.since > before) continue;
      member.stuck = true;
      stuck_++;
    }
    queue_->setAvailable(stuck_ <= options_.stuckThreadsMax);
  }

  void replaceStuck() {
    const size_t most = size_t{threads_} + options_.stuckThreadsMax;
    try {
      while (members_.size() - stuck_ < threads_ && members_.size() < most) addThread();
    } catch (const std::system_error&) {
      // The machine has no more threads now; the next look tries again.
    }
  }

  const std::shared_ptr<WorkQueue> queue_;
  const uint32_t threads_;
  const AbandonOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable look_;
  Members members_;
  uint32_t stuck_ = 0;
  uint32_t started_ = 0;
  std::optional<Clock::time_point> leaveAt_;
};

AbandonableEngine::AbandonableEngine(const EngineOptions& options, const AbandonOptions& abandon)
    : Executor(std::make_shared<WorkQueue>(options.queueDepthMax, options.threads)) {
  if (options.threads == 0 || options.threads > 1024) throw Error(Code::InvalidArgument, "threads must be 1 to 1024");
  if (options.queueDepthMax == 0) throw Error(Code::InvalidArgument, "queueDepthMax must be positive");
  if (abandon.stuckAfterMs == 0) throw Error(Code::InvalidArgument, "stuckAfterMs must be positive");
  crew_ = std::make_shared<Crew>(queue_, options.threads, abandon);
  try {
    crew_->start();
  } catch (const std::system_error& error) {
    close(nullptr);
    throw Error::ofErrno(error.code().value(), "start I/O threads", "");
  }
}

AbandonableEngine::~AbandonableEngine() { close(nullptr); }

EngineStats AbandonableEngine::stats() const {
  EngineStats stats = queue_->stats();
  stats.threads = crew_->threads();
  stats.stuckThreads = crew_->stuck();
  return stats;
}

void AbandonableEngine::close(std::function<void()> done) {
  queue_->close(std::move(done));
  crew_->close();
}

}  // namespace kvferry
