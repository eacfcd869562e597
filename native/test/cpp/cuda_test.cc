// Blocks to and from a GPU: an engine gets the bytes that were stored, whatever its driver can do, and an answer means that nothing moves any more.
#include <thread>

#include "checksum/crc32c.h"
#include "cuda_fixture.h"

namespace kvferry::test {
namespace {

constexpr uint64_t kPages = 96;

/** A chunk over random pages: scattered, in a row, or at equal distances, packed on the host side as a layout does. */
std::vector<Fragment> randomPages(std::mt19937_64& random, uint64_t memories, uint64_t memoryBytes, uint64_t hostBytes) {
  static constexpr uint64_t sizes[] = {64, 1000, 2048, 4096};
  const uint64_t page = sizes[random() % 4];
  const uint64_t stride = random() % 2 == 0 ? page : page + 128;
  const uint64_t count = 1 + random() % std::min({hostBytes / page, memoryBytes / stride, kPages});
  std::vector<uint64_t> order(memoryBytes / stride);
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  if (random() % 2 == 0) std::shuffle(order.begin(), order.end(), random);
  const uint64_t hostStride = hostBytes / count >= page + 32 && random() % 2 == 0 ? page + 32 : page;
  const auto memory = static_cast<uint32_t>(random() % memories);
  const uint64_t gapAfter = hostStride > page ? random() % count : count;  // where the distance is another, once
  std::vector<Fragment> fragments;
  for (uint64_t i = 0; i < count; i++) {
    fragments.push_back({memory, order[i] * stride, i * hostStride - (i > gapAfter ? 16 : 0), page});
  }
  return fragments;
}

/** The device's memories as they should be. */
using Model = std::vector<std::vector<uint8_t>>;

void checkGather(Device& device, const Model& model, uint8_t* host, uint64_t rowBytes, std::mt19937_64& random) {
  const uint32_t count = 1 + random() % 4;
  std::vector<std::vector<Fragment>> pages(count);
  std::vector<ChunkCopy> chunks;
  std::vector<uint8_t> expected(count * rowBytes, 0x11);
  for (uint32_t i = 0; i < count; i++) {
    pages[i] = randomPages(random, model.size(), model[0].size(), rowBytes);
    chunks.push_back({host + i * rowBytes, pages[i].data(), static_cast<uint32_t>(pages[i].size())});
    for (const Fragment& f : pages[i]) {
      std::memcpy(expected.data() + i * rowBytes + f.hostAt, model[f.memory].data() + f.at, f.bytes);
    }
  }
  std::memset(host, 0x11, count * rowBytes);
  std::vector<BlockOutcome> outcomes(count);
  device.copy(Direction::Gather, chunks.data(), count, outcomes.data());
  for (const BlockOutcome& outcome : outcomes) CHECK_EQ(outcome, kStored);
  CHECK(std::memcmp(expected.data(), host, expected.size()) == 0);
}

void checkScatter(Device& device, Model& model, uint8_t* host, uint64_t rowBytes, std::mt19937_64& random) {
  fillPattern(host, rowBytes, random());
  const auto pages = randomPages(random, model.size(), model[0].size(), rowBytes);
  const ChunkCopy chunk{host, pages.data(), static_cast<uint32_t>(pages.size())};
  BlockOutcome outcome;
  device.copy(Direction::Scatter, &chunk, 1, &outcome);
  CHECK_EQ(outcome, kLoaded);
  for (const Fragment& f : pages) std::memcpy(model[f.memory].data() + f.at, host + f.hostAt, f.bytes);
  // The engine's host memory is its own again: what it does to it now must not reach the device.
  std::memset(host, 0x77, rowBytes);
}

Model modelOf(uint64_t memories, uint64_t bytes, uint64_t offset) {
  Model model;
  for (uint64_t i = 0; i < memories; i++) {
    std::vector<uint8_t> all(bytes + offset);
    fillPattern(all.data(), all.size(), i);
    model.emplace_back(all.begin() + static_cast<ptrdiff_t>(offset), all.end());
  }
  return model;
}

constexpr uint64_t kOffset = 512;

std::vector<CudaMemory> allocateIn(Engine& engine, int ordinal, uint64_t memories, uint64_t bytes) {
  std::vector<CudaMemory> all;
  for (uint64_t i = 0; i < memories; i++) {
    all.push_back(engine.allocate(ordinal, bytes + kOffset, i));
    all.back().offset = kOffset;
    all.back().bytes = bytes;
  }
  return all;
}

void checkEngineSees(Engine& engine, const Model& model) {
  for (size_t i = 0; i < model.size(); i++) {
    std::vector<uint8_t> all(kOffset + model[i].size());
    fillPattern(all.data(), all.size(), i);
    std::copy(model[i].begin(), model[i].end(), all.begin() + kOffset);
    CHECK_EQ(engine.sum(static_cast<int>(i)), crc32c(all.data(), all.size()));
  }
}

CHILD(cuda_copies) {
  constexpr uint64_t kBytes = 400'000;
  constexpr uint64_t kRow = 64 * 1024;
  Engine engine;
  {
    Model model = modelOf(2, kBytes, kOffset);
    const auto device = openOn(0, allocateIn(engine, 0, 2, kBytes));
    const auto pinned = Region::create({8, kRow, 0});
    device->useHostMemory(pinned);
    CHECK_EQ(device->stats().pinnedBytes, 8 * kRow);
    CHECK_EQ(device->stats().unpinnedReason, "");
    Memory pageable(4 * kRow);
    std::mt19937_64 random(7);
    for (int round = 0; round < 40; round++) {
      uint8_t* const host = round % 4 == 3 ? pageable.data() : pinned->data() + (round % 5) * kRow;
      checkGather(*device, model, host, round % 4 == 3 ? kRow : kRow / 2, random);
      checkScatter(*device, model, host, kRow, random);
    }
    checkEngineSees(engine, model);
    CHECK_EQ(device->stats().lastError, "");
    const StandInCounts now = counts();
    const char* const batches = std::getenv("BATCHES");
    CHECK_EQ(now.batches > 0, std::string(batches) == "yes");
    CHECK(now.copies2D > 0);  // pageable memory never goes in batches
    CHECK_EQ(now.pinnedRanges, 1u);
  }
  engine.kill();
  checkNothingIsLeft();
}

TEST(cuda_copies_are_right_with_every_driver) {
  inChild("cuda_copies", "11.8", {{"BATCHES", "no"}});
  inChild("cuda_copies", "12.8", {{"BATCHES", "yes"}});
  inChild("cuda_copies", "13.0", {{"BATCHES", "yes"}});
}

TEST(cuda_host_addresses_that_the_gpu_does_not_share_are_not_given_to_it) {
  inChild("cuda_copies", "13.0", {{"BATCHES", "no"}, {"KVFERRY_STAND_IN_CUDA_HOST_POINTERS", "0"}});
}

TEST(cuda_batches_that_the_driver_refuses_are_copied_singly) {
  inChild("cuda_refused_batches", "12.8");
}

CHILD(cuda_refused_batches) {
  constexpr uint64_t kBytes = 200'000;
  Engine engine;
  Model model = modelOf(1, kBytes, kOffset);
  const auto device = openOn(0, allocateIn(engine, 0, 1, kBytes));
  const auto host = Region::create({4, 65'536, 0});
  device->useHostMemory(host);
  std::mt19937_64 random(3);
  const int results[] = {1, 2, 801};
  for (const int result : results) {
    failCalls("cuMemcpyBatchAsync", 0, result);
    for (int round = 0; round < 6; round++) checkGather(*device, model, host->data(), 65'536, random);
    failCalls(nullptr, 0, 0);
  }
  CHECK(device->stats().lastError.find("cuMemcpyBatchAsync: CUDA_ERROR_NOT_SUPPORTED (801)") == 0);
  CHECK_EQ(counts().batches, 0u);
  // It said that it never will: nobody asks again.
  for (int round = 0; round < 6; round++) checkScatter(*device, model, host->data(), 65'536, random);
  CHECK_EQ(counts().batches, 0u);
  checkEngineSees(engine, model);
}

CHILD(cuda_threads) {
  constexpr uint64_t kRow = 32 * 1024;
  constexpr uint64_t kBytes = 128 * 1024;
  Engine engine;
  {
    const auto host = Region::create({4 * 4, kRow, 0});
    std::vector<std::unique_ptr<Device>> devices;
    std::vector<Model> models;
    for (int i = 0; i < 4; i++) {
      // Memory of its own for each thread, on two GPUs; two threads of one GPU share everything else.
      devices.push_back(openOn(i % 2, {engine.allocate(i % 2, kBytes, 100 + static_cast<uint64_t>(i))}));
      devices.back()->useHostMemory(host);
      models.emplace_back(1, std::vector<uint8_t>(kBytes));
      fillPattern(models.back()[0].data(), kBytes, 100 + static_cast<uint64_t>(i));
    }
    std::vector<std::string> failures(4);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < 4; i++) {
      threads.emplace_back([&, i] {
        try {
          std::mt19937_64 random(i);
          for (int round = 0; round < 25; round++) {
            uint8_t* const rows = host->data() + i * 4 * kRow;
            checkScatter(*devices[i], models[i], rows, kRow, random);
            checkGather(*devices[i], models[i], rows, kRow, random);
          }
        } catch (const std::exception& failure) {
          failures[i] = failure.what();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& failure : failures) CHECK_EQ(failure, "");
    for (int i = 0; i < 4; i++) CHECK_EQ(engine.sum(i), crc32c(models[static_cast<size_t>(i)][0].data(), kBytes));
    // One for each thread that copied at once in a direction, and no more.
    CHECK(counts().streams <= 8);
    CHECK_EQ(counts().contexts, 2u);
    CHECK_EQ(counts().pinnedRanges, 1u);
  }
  engine.kill();
  checkNothingIsLeft();
}

TEST(cuda_copies_of_many_threads_do_not_disturb_each_other) {
  inChild("cuda_threads", "13.0");
  inChild("cuda_threads", "11.8", {{"KVFERRY_STAND_IN_CUDA_SEED", "9"}});
}

CHILD(cuda_shared_mappings) {
  Engine engine;
  Memory host(4096);
  {
    const CudaMemory memory = engine.allocate(0, 1 << 20, 1);
    CudaMemory part = memory;
    part.offset = 4096;
    part.bytes = 8192;
    auto first = openOn(0, {memory, part});
    auto second = openOn(0, {part});
    CHECK_EQ(counts().mappings, 1u);
    first.reset();
    CHECK_EQ(copyOne(*second, Direction::Gather, host.data(), {0, 0, 0, 4096}), kStored);
    std::vector<uint8_t> expected(8192);
    fillPattern(expected.data(), expected.size(), 1);
    CHECK(std::memcmp(host.data(), expected.data() + 4096, 4096) == 0);
    second.reset();
    CHECK_EQ(counts().mappings, 0u);
    CHECK_EQ(counts().contexts, 0u);
    // As after a reconnection.
    second = openOn(0, {memory});
    CHECK_EQ(counts().mappings, 1u);
  }
  engine.kill();
  checkNothingIsLeft();
}

TEST(cuda_memory_that_is_opened_twice_is_mapped_once) { inChild("cuda_shared_mappings"); }

}  // namespace
}  // namespace kvferry::test
