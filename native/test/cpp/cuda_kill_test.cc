// Processes that are killed in the middle of copies: no wrong byte, nothing held for ever, nobody waits for the dead.
#include <chrono>
#include <iostream>
#include <thread>

#include "checksum/crc32c.h"
#include "cuda_fixture.h"

namespace kvferry::test {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kPages = 64;
constexpr uint64_t kBytes = kPage * kPages;
constexpr int kThreads = 3;

/** Gathers every other page, until the end. The bytes are the engine's, or the outcome is a failure. */
void gatherUntil(Device& device, uint8_t* host, const std::vector<uint8_t>& expected, const std::atomic<bool>& end, std::atomic<int>& good, std::atomic<int>& wrong) {
  std::vector<Fragment> pages;
  for (uint64_t i = 0; i < kPages; i += 2) pages.push_back({0, i * kPage, (kPages - i - 2) / 2 * kPage, kPage});
  const ChunkCopy chunk{host, pages.data(), static_cast<uint32_t>(pages.size())};
  do {
    std::memset(host, 0, kBytes / 2);
    BlockOutcome outcome;
    device.copy(Direction::Gather, &chunk, 1, &outcome);
    if (outcome != kStored) {
      if (outcome.outcome != Outcome::Failed || outcome.code == Code::None) wrong++;
      continue;
    }
    good++;
    for (const Fragment& page : pages) {
      if (std::memcmp(host + page.hostAt, expected.data() + page.at, kPage) != 0) wrong++;
    }
  } while (!end);
}

CHILD(cuda_kill_engines) {
  const int rounds = std::atoi(std::getenv("ROUNDS"));
  {
    // The arena: page-locked as long as the server lives.
    Engine other;
    const auto host = Region::create({kThreads, kBytes, 0});
    const auto stays = openOn(1, {other.allocate(1, kBytes, 999)});
    stays->useHostMemory(host);
    const uint64_t before = counts().deviceBytes;
    std::mt19937_64 random(11);
    std::atomic<int> good{0};
    std::atomic<int> wrong{0};
    for (int round = 0; round < rounds; round++) {
      Engine engine;
      const auto seed = static_cast<uint64_t>(round);
      std::vector<uint8_t> expected(kBytes);
      fillPattern(expected.data(), kBytes, seed);
      {
        const auto device = openOn(0, {engine.allocate(0, kBytes, seed)});
        device->useHostMemory(host);
        std::atomic<bool> end{false};
        std::vector<std::thread> threads;
        for (size_t t = 0; t < kThreads; t++) {
          threads.emplace_back([&, t] { gatherUntil(*device, host->data() + t * kBytes, expected, end, good, wrong); });
        }
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
        engine.kill();
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 1000));
        end = true;
        for (std::thread& thread : threads) thread.join();
      }
      CHECK_EQ(wrong.load(), 0);
      const StandInCounts now = counts();
      CHECK_EQ(now.deviceBytes, before);
      CHECK_EQ(now.mappings, 1u);
      CHECK_EQ(now.pinnedRanges, 1u);
      CHECK_EQ(now.contexts, 1u);
    }
    CHECK(good > rounds);
    Memory check(kBytes);
    CHECK_EQ(copyOne(*stays, Direction::Gather, check.data(), {0, 0, 0, kBytes}), kStored);
  }
  checkNothingIsLeft();
}

// Processes start ten times more slowly under a sanitizer.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr const char* kRounds = "60";
#else
constexpr const char* kRounds = "200";
#endif

TEST(cuda_engines_that_are_killed_amid_copies_leave_nothing_and_no_wrong_byte) {
  inChild("cuda_kill_engines", "13.0", {{"ROUNDS", kRounds}});
}

/** A "server" that is killed: it scatters pages of one byte each, until then. */
CHILD(cuda_server) {
  std::string line;
  std::getline(std::cin, line);
  CudaMemory memory;
  for (size_t i = 0; i < 64; i++) memory.handle[i] = static_cast<uint8_t>(std::stoi(line.substr(2 * i, 2), nullptr, 16));
  memory.bytes = kBytes;
  const auto device = openOn(0, {memory});
  const auto host = Region::create({1, kBytes, 0});
  device->useHostMemory(host);
  std::cout << "opened" << std::endl;
  for (uint8_t value = 1;; value++) {
    std::memset(host->data(), value, kBytes);
    // The first half of the memory alone: the other is not this server's business.
    copyOne(*device, Direction::Scatter, host->data(), {0, 0, 0, kBytes / 2});
  }
}

CHILD(cuda_kill_servers) {
  Engine engine;
  const CudaMemory memory = engine.allocate(0, kBytes, 4);
  std::string hex;
  for (const uint8_t byte : memory.handle) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    hex += digits;
  }
  std::vector<uint8_t> expected(kBytes);
  fillPattern(expected.data(), kBytes, 4);
  std::mt19937_64 random(12);
  for (int round = 0; round < 20; round++) {
    {
      ChildProcess server("cuda_server");
      CHECK_EQ(server.ask(hex), "opened");
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    }
    // Mapped again by the next server, and the half that no copy was for is whole.
    const auto device = openOn(0, {memory});
    Memory host(kBytes / 2);
    CHECK_EQ(copyOne(*device, Direction::Gather, host.data(), {0, kBytes / 2, 0, kBytes / 2}), kStored);
    CHECK(std::memcmp(host.data(), expected.data() + kBytes / 2, kBytes / 2) == 0);
    CHECK_EQ(counts().deviceBytes, kBytes);
  }
  engine.kill();
  checkNothingIsLeft();
}

TEST(cuda_servers_that_are_killed_amid_copies_leave_engines_their_memory) { inChild("cuda_kill_servers"); }

}  // namespace
}  // namespace kvferry::test
