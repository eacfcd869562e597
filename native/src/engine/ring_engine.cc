#include "engine/ring_engine.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <future>

#include "engine/ring.h"
#include "engine/ring_memory.h"
#include "region/region.h"

namespace kvferry {
namespace {

constexpr uint64_t kBellData = UINT64_MAX;

/** Wakes a thread that waits in its ring. */
class Bell : public Sleeper {
 public:
  Bell() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (fd_ < 0) throw Error::ofErrno(errno, "make an eventfd", "");
  }
  ~Bell() override { close(fd_); }
  void wake() noexcept override {
    const uint64_t one = 1;
    // Full only when it has been rung already.
    if (write(fd_, &one, sizeof(one)) < 0) return;
  }
  void quiet() noexcept {
    uint64_t count;
    if (read(fd_, &count, sizeof(count)) < 0) return;
  }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

/** A unit whose transfer is in the ring. */
struct Flight {
  Unit unit;
  Transfer transfer;
};

class RingThread {
 public:
  RingThread(uint32_t depth, WorkQueue& queue, std::atomic<uint64_t>& registeredBytes)
      : queue_(queue), ring_(depth + 1), memory_(ring_, registeredBytes), flights_(depth) {
    for (uint32_t i = depth; i > 0; i--) free_.push_back(i - 1);
    watcher_ = Region::watch([this] {
      regionEnded_.store(true, std::memory_order_release);
      bell_.wake();
    });
  }
  ~RingThread() {
    Region::unwatch(watcher_);
    queue_.forget(bell_);
  }

  void run() {
    watchBell();
    while (true) {
      if (regionEnded_.exchange(false, std::memory_order_acq_rel)) memory_.sweep();
      takeUnits();
      const bool idle = free_.size() == flights_.size();
      if (idle && queue_.closing()) return;
      enter(0);
      computeFresh();
      // Asleep: woken by an end, or by the bell when something comes that there is a place for.
      const bool full = free_.empty();
      if (full || queue_.sleep(bell_) || (queue_.closing() && !idle)) enter(1);
      if (!full) queue_.awake(bell_);
      ring_.forEachEnded([&](uint64_t data, int result) {
        if (data == kBellData) {
          bell_.quiet();
          watchBell();
        } else {
          ended(static_cast<uint32_t>(data), result);
        }
      });
    }
  }

 private:
  void takeUnits() {
    Unit unit;
    while (!free_.empty() && queue_.tryTake(unit)) {
      const uint32_t place = free_.back();
      free_.pop_back();
      Flight& flight = flights_[place];
      flight.unit = std::move(unit);
      flight.transfer.stage = 0;
      flight.transfer.cursor = 0;
      beginTransfer(place);
    }
  }

  void beginTransfer(uint32_t place) {
    Flight& flight = flights_[place];
    if (flight.unit.work->io()->begin(flight.unit.index, flight.transfer)) {
      fresh_.push_back(place);
      step(place);
      return;
    }
    queue_.finished(flight.unit);
    free_.push_back(place);
  }

  /** Puts the next step of a transfer into the ring. */
  void step(uint32_t place) {
    Transfer& transfer = flights_[place].transfer;
    const int64_t instead = transfer.prepareStep();
    io_uring_sqe* const sqe = ring_.next();
    sqe->user_data = place;
    if (instead != 0) {
      // A result made up by a test still comes out of the ring.
      sqe->opcode = IORING_OP_NOP;
      faults_.push_back({place, instead});
      return;
    }
    // Not registered with the ring: the kernel takes the ring of a killed process apart some time after the process has gone, and
    // would keep the file open, and its lock, until then.
    sqe->fd = transfer.file;
    sqe->off = static_cast<uint64_t>(transfer.offset);
    const iovec& first = transfer.step[0];
    const int slot = transfer.region != nullptr && transfer.stepCount == 1
                         ? memory_.slotOf(*transfer.region, first.iov_base, first.iov_len)
                         : -1;
    if (slot >= 0) {
      sqe->opcode = transfer.writing ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
      sqe->addr = reinterpret_cast<uint64_t>(first.iov_base);
      sqe->len = static_cast<uint32_t>(first.iov_len);
      sqe->buf_index = static_cast<uint16_t>(slot);
    } else {
      sqe->opcode = transfer.writing ? IORING_OP_WRITEV : IORING_OP_READV;
      sqe->addr = reinterpret_cast<uint64_t>(transfer.step);
      sqe->len = static_cast<uint32_t>(transfer.stepCount);
    }
  }

  void computeFresh() {
    for (const uint32_t place : fresh_) {
      Flight& flight = flights_[place];
      flight.unit.work->io()->meanwhile(flight.unit.index, flight.transfer);
    }
    fresh_.clear();
  }

  void ended(uint32_t place, int64_t result) {
    Flight& flight = flights_[place];
    const auto fault =
        std::find_if(faults_.begin(), faults_.end(), [&](const auto& each) { return each.first == place; });
    if (fault != faults_.end()) {
      result = fault->second;
      faults_.erase(fault);
    }
    if (flight.transfer.stepped(result)) {
      step(place);
      return;
    }
    flight.unit.work->io()->complete(flight.unit.index, flight.transfer);
    beginTransfer(place);
  }

  void watchBell() {
    io_uring_sqe* const sqe = ring_.next();
    sqe->opcode = IORING_OP_POLL_ADD;
    sqe->fd = bell_.fd();
    sqe->poll_events = POLLIN;
    sqe->user_data = kBellData;
  }

  /** The kernel is out of memory for requests, or has too many that ended: it takes more when some have been looked at. */
  void enter(unsigned waitFor) {
    const int error = ring_.enter(waitFor);
    if (error == 0 || error == -EAGAIN || error == -EBUSY) return;
    // Nothing is left that could be done: transfers in the kernel use memory that must stay.
    std::fprintf(stderr, "kvferry: io_uring_enter failed: %s\n", errnoName(-error).c_str());
    std::abort();
  }

  WorkQueue& queue_;
  Ring ring_;
  RingMemory memory_;
  Bell bell_;
  std::atomic<bool> regionEnded_{false};
  uint64_t watcher_ = 0;
  std::vector<Flight> flights_;
  std::vector<uint32_t> free_;
  /** Transfers put into the ring whose computing has not been done yet. */
  std::vector<uint32_t> fresh_;
  std::vector<std::pair<uint32_t, int64_t>> faults_;
};

}  // namespace

RingEngine::RingEngine(const RingOptions& options)
    : Executor(std::make_shared<WorkQueue>(options.queueDepthMax, options.depth)) {
  const uint32_t depth = std::max(1u, options.depth / options.threads);
  std::vector<std::future<void>> ready;
  for (uint32_t i = 0; i < options.threads; i++) {
    const auto opened = std::make_shared<std::promise<void>>();
    ready.push_back(opened->get_future());
    // A ring belongs to the thread that made it.
    start("kvferry-ring-" + std::to_string(i), [queue = queue_, bytes = registeredBytes_, depth, opened] {
      std::unique_ptr<RingThread> thread;
      try {
        thread = std::make_unique<RingThread>(depth, *queue, *bytes);
        opened->set_value();
      } catch (...) {
        opened->set_exception(std::current_exception());
      }
      if (thread) thread->run();
    });
  }
  try {
    for (auto& each : ready) each.get();
  } catch (...) {
    close(nullptr);
    join(0);
    throw;
  }
}

RingEngine::~RingEngine() {
  close(nullptr);
  join(0);
}

}  // namespace kvferry
