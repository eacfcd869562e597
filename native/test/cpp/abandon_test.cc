// Storage that hangs: what is given up ends at once and touches nothing of the caller's; threads are replaced, bounded, and left behind.
#include <cstring>
#include <thread>

#include "storage/owned_blocks.h"
#include "engine/abandonable_engine.h"
#include "fixture.h"
#include "gate.h"

namespace kvferry::test {
namespace {

constexpr uint64_t kBlockBytes = 65536;
constexpr uint8_t kSentinel = 0x5a;

/** Work whose units can be given up, over nothing. */
class GivenUp : public TestWork {
 public:
  using TestWork::TestWork;
  bool isAbandonable() const noexcept override { return true; }
  void abandon(Code code) noexcept override {
    abandoned++;
    why = code;
  }
  std::atomic<uint32_t> abandoned{0};
};

std::shared_ptr<GivenUp> hanging(Priority priority, uint32_t units, std::shared_ptr<Gate> gate,
                                 std::shared_ptr<std::atomic<int>> begun) {
  return std::make_shared<GivenUp>(priority, units, [gate, begun](uint32_t) {
    ++*begun;
    gate->pass();
  });
}

/** As the addon's batches: blocks of a file store, through memory of the threads. */
class Blocks : public GivenUp {
 public:
  Blocks(std::shared_ptr<FileStore> store, bool load, std::vector<Key> keys, uint8_t* memory)
      : GivenUp(load ? Priority::Load : Priority::Store, static_cast<uint32_t>(keys.size())),
        blocks(std::move(store), load, units),
        keys_(std::move(keys)),
        memory_(memory) {}
  void run(uint32_t unit, ThreadState& state) noexcept override {
    blocks.run(unit, keys_[unit].data(), memory_ + unit * kBlockBytes, nullptr, state);
    ran++;
  }
  void skip(uint32_t unit, Code code) noexcept override { blocks.skip(unit, code); }
  void abandon(Code code) noexcept override { blocks.abandon(code); }

  OwnedBlocks blocks;

 private:
  const std::vector<Key> keys_;
  uint8_t* const memory_;
};

/** A store whose reads and writes hang while `hangs` is set. */
struct HangingStore {
  HangingStore() : options(optionsIn(scratch, kBlockBytes)) {
    store = FileStore::open(options, io);
    io.onRead = [this](int64_t) { return hang(); };
    io.onWrite = [this](int64_t) { return hang(); };
  }
  int64_t hang() {
    if (!hangs) return 0;
    inside++;
    gate.pass();
    return 0;
  }

  FaultyIo io;
  std::atomic<bool> hangs{false};
  std::atomic<int> inside{0};
  Gate gate;
  Scratch scratch;
  FileStoreOptions options;
  std::shared_ptr<FileStore> store;
};

template <typename Condition>
void eventually(Condition condition) {
  for (int i = 0; i < 10'000 && !condition(); i++) std::this_thread::sleep_for(1ms);
  CHECK(condition());
}

/** So that nothing of a test is used after it. */
void end(AbandonableEngine& engine) {
  engine.close(nullptr);
  eventually([&] { return engine.stats().threads == 0; });
}

std::vector<Key> keysFrom(uint32_t first, uint32_t count) {
  std::vector<Key> keys;
  for (uint32_t i = 0; i < count; i++) keys.push_back(keyOf(first + i));
  return keys;
}

bool isFilledWith(Memory& memory, uint8_t value) {
  return std::all_of(memory.data(), memory.data() + memory.size(), [&](uint8_t byte) { return byte == value; });
}

}  // namespace

TEST(an_abandoned_load_leaves_its_memory_alone_when_it_comes_back) {
  HangingStore hanging;
  AbandonableEngine engine({2, 1000}, {});
  Memory stored(4 * kBlockBytes);
  stored.fill(1);
  const auto store = std::make_shared<Blocks>(hanging.store, false, keysFrom(0, 4), stored.data());
  engine.submit(store);
  CHECK(store->done.wait());
  hanging.hangs = true;
  Memory target(4 * kBlockBytes);
  std::memset(target.data(), kSentinel, target.size());
  const auto load = std::make_shared<Blocks>(hanging.store, true, keysFrom(0, 4), target.data());
  engine.submit(load);
  eventually([&] { return hanging.inside == 2; });
  CHECK(engine.cancel(load.get(), Code::Deadline));
  CHECK_EQ(load->finishes.load(), 1u);
  for (const BlockOutcome& outcome : load->blocks.outcomes()) CHECK_EQ(outcome, failed(Code::Deadline));
  CHECK(!engine.cancel(load.get(), Code::Aborted));
  hanging.gate.open();
  eventually([&] { return load->ran == 2; });
  CHECK(isFilledWith(target, kSentinel));
  CHECK_EQ(load->finishes.load(), 1u);
  CHECK_EQ(engine.stats().running, 0u);
  hanging.hangs = false;
  const auto again = std::make_shared<Blocks>(hanging.store, true, keysFrom(0, 4), target.data());
  engine.submit(again);
  CHECK(again->done.wait());
  for (const BlockOutcome& outcome : again->blocks.outcomes()) CHECK_EQ(outcome, kLoaded);
  CHECK(target == stored);
  end(engine);
}

TEST(an_abandoned_store_reads_no_memory_any_more_and_leaves_a_whole_file_or_none) {
  for (const Publish publish : {Publish::Auto, Publish::Rename}) {
    HangingStore hanging;
    hanging.options.publish = publish;
    hanging.store = FileStore::open(hanging.options, hanging.io);
    AbandonableEngine engine({3, 1000}, {});  // two of them store
    Memory memory(3 * kBlockBytes);
    memory.fill(7);
    Memory original(3 * kBlockBytes);
    original.fill(7);
    hanging.hangs = true;
    const auto store = std::make_shared<Blocks>(hanging.store, false, keysFrom(0, 3), memory.data());
    engine.submit(store);
    eventually([&] { return hanging.inside == 2; });
    CHECK(engine.cancel(store.get(), Code::Aborted));
    std::memset(memory.data(), kSentinel, memory.size());
    hanging.gate.open();
    eventually([&] { return store->ran == 2; });
    hanging.hangs = false;
    const auto load = std::make_shared<Blocks>(hanging.store, true, keysFrom(0, 3), memory.data());
    engine.submit(load);
    CHECK(load->done.wait());
    CHECK_EQ(load->blocks.outcomes()[0], kLoaded);
    CHECK_EQ(load->blocks.outcomes()[1], kLoaded);
    CHECK_EQ(load->blocks.outcomes()[2], kMiss);
    CHECK(std::memcmp(memory.data(), original.data(), 2 * kBlockBytes) == 0);
    CHECK_EQ(filesIn(hanging.options.tmpFolder), 0u);
    end(engine);
  }
}

TEST(a_thread_that_is_stuck_is_replaced_and_the_surplus_ends) {
  AbandonableEngine engine({2, 1000}, {.stuckAfterMs = 20, .stuckThreadsMax = 2});
  const auto gate = std::make_shared<Gate>();
  const auto begun = std::make_shared<std::atomic<int>>(0);
  const auto stuck = hanging(Priority::Load, 2, gate, begun);
  engine.submit(stuck);
  // Both threads hang, and work goes on.
  const auto other = work(Priority::Store, 10);
  engine.submit(other);
  CHECK(other->done.wait());
  eventually([&] { return engine.stats().stuckThreads == 2 && engine.stats().threads == 4; });
  gate->open();
  CHECK(stuck->done.wait());
  eventually([&] { return engine.stats().stuckThreads == 0 && engine.stats().threads == 2; });
  end(engine);
}

TEST(too_many_stuck_threads_make_an_engine_refuse_until_they_are_back) {
  AbandonableEngine engine({2, 1000}, {.stuckAfterMs = 20, .stuckThreadsMax = 1});
  const auto gate = std::make_shared<Gate>();
  const auto begun = std::make_shared<std::atomic<int>>(0);
  const auto stuck = hanging(Priority::Load, 5, gate, begun);
  engine.submit(stuck);
  // Two threads and one in place of another; then there is no more.
  eventually([&] { return engine.stats().stuckThreads == 3; });
  CHECK_EQ(engine.submit(work(Priority::Load, 1)), Submitted::Unavailable);
  std::this_thread::sleep_for(100ms);
  CHECK_EQ(begun->load(), 3);
  CHECK_EQ(engine.stats().threads, 3u);
  CHECK(engine.cancel(stuck.get(), Code::Deadline));
  CHECK(stuck->done.wait());
  CHECK_EQ(stuck->abandoned.load(), 1u);
  CHECK_EQ(stuck->skipped.load(), 2u);
  CHECK_EQ(engine.submit(work(Priority::Load, 1)), Submitted::Unavailable);
  gate->open();
  eventually([&] { return engine.submit(work(Priority::Load, 1)) == Submitted::Accepted; });
  eventually([&] { return engine.stats().threads == 2; });
  CHECK_EQ(stuck->finishes.load(), 1u);
  end(engine);
}

TEST(stores_that_were_given_up_keep_no_other_from_storing) {
  AbandonableEngine engine({4, 1000}, {.stuckAfterMs = 20, .stuckThreadsMax = 4});
  const auto gate = std::make_shared<Gate>();
  const auto begun = std::make_shared<std::atomic<int>>(0);
  const auto stuck = hanging(Priority::Store, 3, gate, begun);
  engine.submit(stuck);
  eventually([&] { return *begun == 3; });
  const auto waiting = work(Priority::Store, 5);
  engine.submit(waiting);
  CHECK(engine.cancel(stuck.get(), Code::Deadline));
  CHECK(waiting->done.wait());
  gate->open();
  end(engine);
}

TEST(close_leaves_what_hangs_behind) {
  const auto gate = std::make_shared<Gate>();
  const auto begun = std::make_shared<std::atomic<int>>(0);
  const auto stuck = hanging(Priority::Load, 3, gate, begun);
  const auto closed = std::make_shared<Gate>();
  {
    AbandonableEngine engine({2, 1000}, {.stuckAfterMs = 20, .stuckThreadsMax = 0, .closeWaitMs = 50});
    engine.submit(stuck);
    eventually([&] { return *begun == 2; });
    engine.close([closed] { closed->open(); });
    CHECK(closed->wait());
    CHECK_EQ(stuck->finishes.load(), 1u);
    CHECK_EQ(stuck->abandoned.load(), 1u);
    CHECK_EQ(stuck->why.load(), Code::Closed);
    CHECK(!engine.join(0));
    const auto again = std::make_shared<Gate>();
    engine.close([again] { again->open(); });
    CHECK(again->wait());
  }
  gate->open();
  eventually([&] { return stuck->ran == 2; });
  CHECK_EQ(stuck->finishes.load(), 1u);
}

TEST(other_work_is_not_given_up) {
  AbandonableEngine engine({1, 1000}, {.closeWaitMs = 20});
  const auto gate = std::make_shared<Gate>();
  const auto begun = std::make_shared<std::atomic<int>>(0);
  const auto copying = work(Priority::Load, 2, [gate, begun](uint32_t) {
    ++*begun;
    gate->pass();
  });
  engine.submit(copying);
  eventually([&] { return *begun == 1; });
  CHECK(engine.cancel(copying.get(), Code::Aborted));
  CHECK_EQ(copying->finishes.load(), 0u);
  Gate closed;
  engine.close([&] { closed.open(); });
  std::this_thread::sleep_for(100ms);
  CHECK_EQ(copying->finishes.load(), 0u);
  gate->open();
  CHECK(closed.wait());
  CHECK_EQ(copying->finishes.load(), 1u);
}

TEST(abandoning_races_with_blocks_that_end) {
  HangingStore quick;
  AbandonableEngine engine({4, 100'000}, {});
  Memory memory(8 * kBlockBytes);
  memory.fill(3);
  const std::vector<Key> keys = keysFrom(0, 8);
  const auto first = std::make_shared<Blocks>(quick.store, false, keys, memory.data());
  engine.submit(first);
  CHECK(first->done.wait());
  for (uint32_t round = 0; round < 400; round++) {
    const bool load = round % 2 == 0;
    const auto own = load ? keys : keysFrom(1000 + 8 * round, 8);
    const auto blocks = std::make_shared<Blocks>(quick.store, load, own, memory.data());
    engine.submit(blocks);
    std::this_thread::sleep_for(std::chrono::microseconds(round * 7 % 900));
    engine.cancel(blocks.get(), Code::Aborted);
    CHECK(blocks->done.wait());
    CHECK_EQ(blocks->finishes.load(), 1u);
    // The memory is the caller's again: a thread that still used it is a race that the sanitizer sees.
    std::memset(memory.data(), static_cast<int>(round), memory.size());
    for (const BlockOutcome& outcome : blocks->blocks.outcomes()) {
      CHECK(outcome == failed(Code::Aborted) || outcome == (load ? kLoaded : kStored));
    }
  }
  end(engine);
}

TEST(a_thread_that_is_not_needed_any_more_leaves_no_work_lying) {
  // One store at a time, so that the others sleep while it runs; its thread is replaced, and ends when it comes back.
  AbandonableEngine engine({2, 1000}, {.stuckAfterMs = 20, .stuckThreadsMax = 1});
  const auto stores = work(Priority::Store, 20, [&](uint32_t unit) {
    if (unit > 0) return;
    eventually([&] { return engine.stats().threads == 3; });
    std::this_thread::sleep_for(100ms);  // until the new one sleeps, too
  });
  engine.submit(stores);
  CHECK(stores->done.wait());
  CHECK_EQ(stores->ran.load(), 20u);
  eventually([&] { return engine.stats().threads == 2; });
  end(engine);
}

}  // namespace kvferry::test
