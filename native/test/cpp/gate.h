// Work for engines under test, and a gate that holds it up.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "engine/work.h"

namespace kvferry::test {

using namespace std::chrono_literals;

/** Opens once. */
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }
  void pass() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [&] { return open_; });
  }
  bool wait() {
    std::unique_lock lock(mutex_);
    return opened_.wait_until(lock, std::chrono::system_clock::now() + 10s, [&] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

class TestWork : public Work {
 public:
  TestWork(Priority priority, uint32_t units, std::function<void(uint32_t)> body = {})
      : Work(priority, units), body_(std::move(body)) {}
  void run(uint32_t unit, ThreadState&) noexcept override {
    if (body_) body_(unit);
    ran++;
  }
  void skip(uint32_t, Code code) noexcept override {
    skipped++;
    why = code;
  }
  void finish() noexcept override {
    finishes++;
    done.open();
  }

  std::atomic<uint32_t> ran{0};
  std::atomic<uint32_t> skipped{0};
  std::atomic<uint32_t> finishes{0};
  std::atomic<Code> why{Code::None};
  Gate done;

 private:
  const std::function<void(uint32_t)> body_;
};

inline std::shared_ptr<TestWork> work(Priority priority, uint32_t units, std::function<void(uint32_t)> body = {}) {
  return std::make_shared<TestWork>(priority, units, std::move(body));
}

}  // namespace kvferry::test
