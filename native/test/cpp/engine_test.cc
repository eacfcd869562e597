// Order, bounds, cancelling and ending of batches.
#include <thread>

#include "check.h"
#include "engine/engine.h"
#include "gate.h"

namespace kvferry::test {
namespace {

struct Recorder {
  std::mutex mutex;
  std::string order;
  void add(char name) {
    const std::lock_guard lock(mutex);
    order += name;
  }
};

}  // namespace

TEST(every_unit_runs_once_and_each_batch_ends_once) {
  Engine engine({4, 100'000});
  std::vector<std::atomic<int>> counts(1000);
  std::vector<std::shared_ptr<TestWork>> all;
  for (int i = 0; i < 20; i++) {
    all.push_back(work(i % 2 == 0 ? Priority::Load : Priority::Store, 1000, [&](uint32_t unit) { counts[unit]++; }));
    CHECK_EQ(engine.submit(all.back()), Submitted::Accepted);
  }
  for (const auto& each : all) CHECK(each->done.wait());
  for (const auto& count : counts) CHECK_EQ(count.load(), 20);
  for (const auto& each : all) CHECK_EQ(each->finishes.load(), 1u);
  const EngineStats stats = engine.stats();
  CHECK_EQ(stats.queuedLoads + stats.queuedStores, 0u);
}

TEST(an_empty_batch_ends_at_once) {
  Engine engine({1, 10});
  const auto empty = work(Priority::Load, 0);
  CHECK_EQ(engine.submit(empty), Submitted::Accepted);
  CHECK_EQ(empty->finishes.load(), 1u);
}

TEST(a_batch_beyond_the_bound_is_refused_whole) {
  Engine engine({1, 10});
  Gate gate;
  Gate begun;
  const auto blocker = work(Priority::Load, 4, [&](uint32_t) { begun.open(); gate.pass(); });
  CHECK_EQ(engine.submit(blocker), Submitted::Accepted);
  CHECK(begun.wait());
  const auto tooMuch = work(Priority::Load, 7);
  CHECK_EQ(engine.submit(tooMuch), Submitted::Busy);
  const auto fits = work(Priority::Store, 6);
  CHECK_EQ(engine.submit(fits), Submitted::Accepted);
  CHECK_EQ(engine.stats().running, 1u);
  CHECK_EQ(engine.stats().queuedLoads, 3u);
  CHECK_EQ(engine.stats().queuedStores, 6u);
  gate.open();
  CHECK(fits->done.wait());
  CHECK(blocker->done.wait());
  CHECK_EQ(tooMuch->ran.load(), 0u);
  CHECK_EQ(engine.submit(work(Priority::Load, 10)), Submitted::Accepted);
}

TEST(loads_go_first_and_stores_are_not_starved) {
  Engine engine({1, 1000});
  Gate gate;
  Gate begun;
  Recorder recorder;
  CHECK_EQ(engine.submit(work(Priority::Load, 1, [&](uint32_t) { begun.open(); gate.pass(); })), Submitted::Accepted);
  CHECK(begun.wait());
  const auto stores = work(Priority::Store, 20, [&](uint32_t) { recorder.add('s'); });
  const auto loads = work(Priority::Load, 60, [&](uint32_t) { recorder.add('l'); });
  engine.submit(stores);
  engine.submit(loads);
  gate.open();
  CHECK(stores->done.wait());
  CHECK(loads->done.wait());
  CHECK_EQ(recorder.order.substr(0, 24), "lllllllslllllllsllllllls");
}

TEST(slow_stores_leave_threads_for_loads) {
  Engine engine({4, 1000});
  Gate gate;
  std::atomic<int> storing{0};
  const auto stores = work(Priority::Store, 50, [&](uint32_t) { storing++; gate.pass(); });
  engine.submit(stores);
  while (storing < 3) std::this_thread::sleep_for(1ms);
  const auto load = work(Priority::Load, 10);
  engine.submit(load);
  const bool loaded = load->done.wait();
  const int atOnce = storing;
  gate.open();
  CHECK(loaded);
  CHECK_EQ(atOnce, 3);
  CHECK(stores->done.wait());
}

TEST(cancel_ends_what_has_not_begun) {
  Engine engine({1, 1000});
  Gate gate;
  Gate begun;
  const auto batch = work(Priority::Load, 100, [&](uint32_t) { begun.open(); gate.pass(); });
  const auto waiting = work(Priority::Store, 5);
  engine.submit(batch);
  engine.submit(waiting);
  CHECK(begun.wait());
  CHECK(engine.cancel(waiting.get(), Code::Deadline));
  CHECK_EQ(waiting->finishes.load(), 1u);
  CHECK_EQ(waiting->skipped.load(), 5u);
  CHECK_EQ(waiting->why.load(), Code::Deadline);
  CHECK(engine.cancel(batch.get(), Code::Aborted));
  // The block under way is finished, so the batch has not ended.
  CHECK_EQ(batch->finishes.load(), 0u);
  CHECK_EQ(batch->skipped.load(), 99u);
  gate.open();
  CHECK(batch->done.wait());
  CHECK_EQ(batch->ran.load(), 1u);
  CHECK(!engine.cancel(batch.get(), Code::Aborted));
}

TEST(close_ends_what_waits_and_refuses_more) {
  Engine engine({2, 1000});
  Gate gate;
  std::atomic<int> begun{0};
  const auto batch = work(Priority::Load, 50, [&](uint32_t) { begun++; gate.pass(); });
  engine.submit(batch);
  while (begun < 2) std::this_thread::sleep_for(1ms);
  Gate closed;
  engine.close([&] { closed.open(); });
  CHECK_EQ(batch->skipped.load(), 48u);
  CHECK_EQ(batch->why.load(), Code::Closed);
  CHECK_EQ(engine.submit(work(Priority::Load, 1)), Submitted::Closed);
  CHECK(!engine.join(20));
  gate.open();
  CHECK(batch->done.wait());
  CHECK(closed.wait());
}

TEST(an_engine_can_be_closed_twice_and_destroyed_idle) {
  for (int i = 0; i < 20; i++) {
    Engine engine({8, 10});
    Gate first;
    Gate second;
    engine.close([&] { first.open(); });
    engine.close([&] { second.open(); });
    CHECK(first.wait());
    CHECK(second.wait());
    CHECK(engine.join(0));
  }
}

TEST(cancel_and_run_race_without_loss) {
  Engine engine({3, 100'000});
  for (int round = 0; round < 300; round++) {
    const auto batch = work(round % 2 == 0 ? Priority::Load : Priority::Store, 20);
    engine.submit(batch);
    if (round % 3 != 0) engine.cancel(batch.get(), Code::Aborted);
    CHECK(batch->done.wait());
    CHECK_EQ(batch->ran + batch->skipped, 20u);
    CHECK_EQ(batch->finishes.load(), 1u);
  }
}

}  // namespace kvferry::test
