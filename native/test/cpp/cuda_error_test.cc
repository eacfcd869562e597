// What goes wrong with a GPU ends as a typed outcome: of the copies that it happened to, of one GPU, and without anything left behind.
#include <thread>

#include "cuda_fixture.h"

namespace kvferry::test {
namespace {

constexpr uint64_t kBytes = 64 * 1024;

bool patternAt(const uint8_t* memory, size_t bytes, uint64_t seed, size_t offset) {
  std::vector<uint8_t> expected(offset + bytes);
  fillPattern(expected.data(), expected.size(), seed);
  return std::memcmp(memory, expected.data() + offset, bytes) == 0;
}

TEST(cuda_that_is_not_there_is_unsupported_and_says_why) { inChild("cuda_without_driver", "none"); }

CHILD(cuda_without_driver) {
  // A machine may have a real driver: what is found first is no library at all.
  const Scratch scratch;
  writeAll(scratch / "libcuda.so.1", {'n', 'o'});
  setenv("LD_LIBRARY_PATH", (scratch / "").c_str(), 1);
  ChildProcess child("cuda_without_driver_2");
  CHECK_EQ(child.wait(), 0);
}

CHILD(cuda_without_driver_2) {
  std::string message;
  CHECK_EQ(codeThrown([] { openOn(0, {}); }, &message), Code::Unsupported);
  CHECK(message.starts_with("no CUDA: "));
  CHECK(message.find("libcuda.so.1") != std::string::npos);
}

CHILD(cuda_with_old_driver) {
  std::string message;
  CHECK_EQ(codeThrown([] { openOn(0, {}); }, &message), Code::Unsupported);
  CHECK(message.find("(CUDA 11.2) has no cuDeviceGetUuid_v2") != std::string::npos);
}

TEST(cuda_driver_that_is_too_old_is_named_with_what_it_lacks) { inChild("cuda_with_old_driver", "11.2"); }

CHILD(cuda_bad_opening) {
  Engine engine;
  const CudaMemory memory = engine.allocate(0, kBytes, 1);
  CHECK_EQ(codeThrown([&] { openCudaDevice({{}, {memory}}); }), Code::InvalidArgument);
  for (const auto& [offset, bytes] : std::vector<std::pair<uint64_t, uint64_t>>{
           {0, kBytes + 1}, {kBytes, 1}, {UINT64_MAX, 2}, {1, UINT64_MAX}, {kBytes + 1, 0}}) {
    CudaMemory wrong = memory;
    wrong.offset = offset;
    wrong.bytes = bytes;
    CHECK_EQ(codeThrown([&] { openOn(0, {memory, wrong}); }), Code::InvalidArgument);
  }
  CudaMemory garbage = memory;
  garbage.handle.fill(0x5a);
  CHECK_EQ(codeThrown([&] { openOn(0, {garbage}); }), Code::DeviceFailed);
  CHECK_EQ(codeThrown([&] { openOn(1, {memory}); }), Code::DeviceFailed);  // of the other GPU
  engine.kill();
  std::string message;
  CHECK_EQ(codeThrown([&] { openOn(0, {memory}); }, &message), Code::DeviceFailed);
  CHECK(message.find("cuIpcOpenMemHandle_v2: CUDA_ERROR_MAP_FAILED (205)") != std::string::npos);
  checkNothingIsLeft();
}

TEST(cuda_memory_that_cannot_be_opened_is_refused_and_harms_nobody) { inChild("cuda_bad_opening"); }

struct Case {
  const char* call;
  int result;
  Code opened, copied;
};

/** With a fault before the opening, and another time before a copy. */
void checkCase(Engine& engine, const CudaMemory& memory, const Case& each) {
  failCalls(each.call, 0, each.result);
  const Code opened = codeThrown([&] { openOn(0, {memory}); });
  failCalls(nullptr, 0, 0);
  CHECK_EQ(opened, each.opened);
  if (opened == Code::DeviceLost) return;
  const auto device = openOn(0, {memory});
  const auto host = Region::create({1, kBytes, 0});
  device->useHostMemory(host);
  failCalls(each.call, 0, each.result);
  const BlockOutcome gathered = copyOne(*device, Direction::Gather, host->data(), {0, 0, 0, kBytes});
  const BlockOutcome scattered = copyOne(*device, Direction::Scatter, host->data(), {0, 0, 0, kBytes});
  failCalls(nullptr, 0, 0);
  CHECK_EQ(gathered, each.copied == Code::None ? kStored : failed(each.copied));
  CHECK_EQ(scattered, each.copied == Code::None ? kLoaded : failed(each.copied));
  if (each.copied == Code::DeviceLost) return;
  // It was that copy's trouble, and nobody else's.
  std::memset(host->data(), 0, kBytes);
  CHECK_EQ(copyOne(*device, Direction::Gather, host->data(), {0, 0, 0, kBytes}), kStored);
  CHECK(each.copied == Code::None ? patternAt(host->data(), kBytes, 1, 0) : true);
  if (each.copied != Code::None) CHECK(device->stats().lastError.starts_with(each.call));
  (void)engine;
}

CHILD(cuda_errors) {
  static constexpr Case cases[] = {
      {"cuDeviceGetCount", 2, Code::NoSpace, Code::None},
      {"cuDevicePrimaryCtxSetFlags_v2", 1, Code::None, Code::None},
      {"cuDevicePrimaryCtxRetain", 2, Code::NoSpace, Code::None},
      {"cuDevicePrimaryCtxRetain", 46, Code::DeviceFailed, Code::None},
      {"cuDeviceGetAttribute", 1, Code::None, Code::None},
      {"cuIpcOpenMemHandle_v2", 2, Code::NoSpace, Code::None},
      {"cuIpcOpenMemHandle_v2", 201, Code::DeviceFailed, Code::None},
      {"cuMemGetAddressRange_v2", 1, Code::None, Code::None},
      {"cuCtxGetStreamPriorityRange", 1, Code::None, Code::None},
      {"cuStreamCreateWithPriority", 2, Code::None, Code::NoSpace},
      {"cuStreamCreateWithPriority", 1, Code::None, Code::DeviceFailed},
      {"cuEventCreate", 2, Code::None, Code::NoSpace},
      {"cuEventRecord", 2, Code::None, Code::NoSpace},
      {"cuEventRecord", 400, Code::None, Code::DeviceFailed},
      {"cuEventSynchronize", 1, Code::None, Code::DeviceFailed},
  };
  Engine engine;
  const CudaMemory memory = engine.allocate(0, kBytes, 1);
  for (const Case& each : cases) {
    try {
      checkCase(engine, memory, each);
    } catch (const check::Failure& failure) {
      throw check::Failure(std::string(each.call) + " = " + std::to_string(each.result) + ": " + failure.what());
    }
  }
  engine.kill();
  checkNothingIsLeft();
}

TEST(cuda_errors_of_each_call_end_as_outcomes_with_a_code) { inChild("cuda_errors"); }

CHILD(cuda_copy_errors) {
  Engine engine;
  const auto device = openOn(0, {engine.allocate(0, kBytes, 1)});
  const auto host = Region::create({3, kBytes, 0});
  device->useHostMemory(host);
  // The second of three chunks: the others are as good as ever.
  for (const auto& [result, code] : {std::pair{2, Code::NoSpace}, std::pair{1, Code::DeviceFailed}}) {
    const Fragment fragment{0, 0, 0, kBytes};
    const ChunkCopy chunks[] = {{host->data(), &fragment, 1}, {host->data() + kBytes, &fragment, 1}, {host->data() + 2 * kBytes, &fragment, 1}};
    BlockOutcome outcomes[3];
    std::memset(host->data(), 0, 3 * kBytes);
    failCalls("cuMemcpyDtoHAsync_v2", 2, result);
    device->copy(Direction::Gather, chunks, 3, outcomes);
    failCalls(nullptr, 0, 0);
    CHECK_EQ(outcomes[0], kStored);
    CHECK_EQ(outcomes[1], failed(code));
    CHECK_EQ(outcomes[2], kStored);
    CHECK(patternAt(host->data(), kBytes, 1, 0));
    CHECK(patternAt(host->data() + 2 * kBytes, kBytes, 1, 0));
  }
}

TEST(cuda_copy_that_cannot_be_started_fails_alone) { inChild("cuda_copy_errors"); }

CHILD(cuda_sticky) {
  const char* const call = std::getenv("CALL");
  const int result = std::atoi(std::getenv("RESULT"));
  Engine engine;
  const CudaMemory memory = engine.allocate(0, kBytes, 1);
  {
    const auto device = openOn(0, {memory});
    const auto host = Region::create({1, kBytes, 0});
    device->useHostMemory(host);
    CHECK_EQ(copyOne(*device, Direction::Gather, host->data(), {0, 0, 0, kBytes}), kStored);
    failCalls(call, 1, result);
    CHECK_EQ(copyOne(*device, Direction::Gather, host->data(), {0, 0, 0, kBytes}), failed(Code::DeviceLost));
    CHECK_EQ(copyOne(*device, Direction::Scatter, host->data(), {0, 0, 0, kBytes}), failed(Code::DeviceLost));
    CHECK(device->stats().lastError.find("(" + std::to_string(result) + ")") != std::string::npos ||
          device->stats().lastError.find("error " + std::to_string(result)) != std::string::npos);
    CHECK_EQ(codeThrown([&] { openOn(0, {memory}); }), Code::DeviceLost);
    CHECK_EQ(codeThrown([&] { device->useHostMemory(Region::create({1, 4096, 0})); }), Code::DeviceLost);
  }
  // By the driver's word only a new process can use it again.
  CHECK_EQ(codeThrown([&] { openOn(0, {memory}); }), Code::DeviceLost);
  const auto other = openOn(1, {engine.allocate(1, kBytes, 5)});
  Memory host(kBytes);
  CHECK_EQ(copyOne(*other, Direction::Gather, host.data(), {0, 0, 0, kBytes}), kStored);
  CHECK(patternAt(host.data(), kBytes, 5, 0));
}

TEST(cuda_errors_that_break_a_context_lose_the_gpu_and_no_other) {
  for (const char* const result : {"700", "719", "214", "999"}) {
    for (const char* const call : {"run", "cuMemcpyDtoHAsync_v2", "cuEventSynchronize", "cuCtxPushCurrent_v2"}) {
      inChild("cuda_sticky", "13.0", {{"CALL", call}, {"RESULT", result}});
    }
  }
}

CHILD(cuda_lost_meanwhile) {
  Engine engine;
  {
    const auto host = Region::create({8, kBytes, 0});
    std::unique_ptr<Device> devices[2];
    for (int i = 0; i < 2; i++) {
      devices[i] = openOn(i, {engine.allocate(i, kBytes, static_cast<uint64_t>(i))});
      devices[i]->useHostMemory(host);
    }
    std::atomic<int> lost{0};
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 6; t++) {
      threads.emplace_back([&, t] {
        uint8_t* const row = host->data() + t * kBytes;
        for (int round = 0; round < 60; round++) {
          const BlockOutcome outcome = copyOne(*devices[t % 2], Direction::Gather, row, {0, 0, 0, kBytes});
          if (outcome == kStored) {
            if (!patternAt(row, kBytes, t % 2, 0)) wrong++;
          } else if (t % 2 == 0 && outcome == failed(Code::DeviceLost)) {
            lost++;
          } else {
            wrong++;
          }
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    failCalls("run", 3, 700, 0);
    for (std::thread& thread : threads) thread.join();
    CHECK_EQ(wrong.load(), 0);
    CHECK(lost > 0);
    CHECK(devices[0]->stats().lastError.find("CUDA_ERROR_ILLEGAL_ADDRESS (700)") != std::string::npos);
    CHECK_EQ(devices[1]->stats().lastError, "");
  }
  // Of the GPU that went on nothing is left; what the other had ends with the process.
  CHECK(counts().contexts <= 1);
  CHECK_EQ(counts().streams, 0u);
  CHECK_EQ(counts().events, 0u);
}

TEST(cuda_gpu_that_is_lost_amid_copies_fails_them_and_the_other_goes_on) { inChild("cuda_lost_meanwhile"); }

CHILD(cuda_freed_memory) {
  Engine engine;
  const auto device = openOn(0, {engine.allocate(0, kBytes, 1)});
  engine.free(0);
  Memory host(kBytes);
  CHECK_EQ(copyOne(*device, Direction::Gather, host.data(), {0, 0, 0, kBytes}), failed(Code::DeviceLost));
}

TEST(cuda_memory_that_its_engine_has_freed_is_never_served) { inChild("cuda_freed_memory"); }

CHILD(cuda_unpinned) {
  Engine engine;
  {
    failCalls("cuMemHostRegister_v2", 0, 2);
    const auto device = openOn(0, {engine.allocate(0, kBytes, 1)});
    const auto host = Region::create({2, kBytes, 0});
    device->useHostMemory(host);
    const DeviceStats stats = device->stats();
    CHECK_EQ(stats.pinnedBytes, 0u);
    CHECK_EQ(stats.unpinnedBytes, 2 * kBytes);
    CHECK(stats.unpinnedReason.find("cuMemHostRegister_v2: CUDA_ERROR_OUT_OF_MEMORY (2)") != std::string::npos);
    const Fragment pages[] = {{0, 0, 0, 4096}, {0, 8192, 4096, 4096}, {0, 40'000, 8192, 100}};
    const ChunkCopy chunk{host->data(), pages, 3};
    BlockOutcome outcome;
    device->copy(Direction::Gather, &chunk, 1, &outcome);
    CHECK_EQ(outcome, kStored);
    CHECK(patternAt(host->data() + 4096, 4096, 1, 8192));
    CHECK_EQ(counts().batches, 0u);
    failCalls(nullptr, 0, 0);
    // The next engine's session may have more luck.
    const auto next = openOn(0, {engine.allocate(0, kBytes, 1)});
    next->useHostMemory(host);
    CHECK_EQ(next->stats().pinnedBytes, 2 * kBytes);
  }
  engine.kill();
  checkNothingIsLeft();
}

TEST(cuda_host_memory_that_cannot_be_page_locked_is_used_as_it_is) { inChild("cuda_unpinned"); }

CHILD(cuda_touch) {
  Engine engine;
  const CudaMemory memory = engine.allocate(0, kBytes, 1);
  const auto device = openOn(0, {memory});
  using Range = int(uint64_t*, size_t*, uint64_t);
  (void)counts();
  // Its own address for the memory, as the test of the stand-in itself.
  using Open = int(uint64_t*, std::array<uint8_t, 64>, unsigned);
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
  void* context = nullptr;
  reinterpret_cast<int (*)(void**, int)>(dlsym(library, "cuDevicePrimaryCtxRetain"))(&context, 0);
  reinterpret_cast<int (*)(void*)>(dlsym(library, "cuCtxPushCurrent_v2"))(context);
  uint64_t address = 0;
  CHECK_EQ(reinterpret_cast<Open*>(dlsym(library, "cuIpcOpenMemHandle_v2"))(&address, memory.handle, 1), 208);
  CHECK_EQ(reinterpret_cast<int (*)(uint64_t*, size_t)>(dlsym(library, "cuMemAlloc_v2"))(&address, 4096), 0);
  size_t bytes = 0;
  uint64_t base = 0;
  CHECK_EQ(reinterpret_cast<Range*>(dlsym(library, "cuMemGetAddressRange_v2"))(&base, &bytes, address), 0);
  CHECK_EQ(bytes, size_t{4096});
  std::printf("touching\n");
  std::fflush(stdout);
  const volatile uint8_t* const memoryOfDevice = reinterpret_cast<const uint8_t*>(address);
  std::exit(memoryOfDevice[0] == 0 ? 0 : 1);
}

CHILD(cuda_touch_parent) {
  ChildProcess child("cuda_touch", {{"ASAN_OPTIONS", "handle_segv=0"}, {"TSAN_OPTIONS", "handle_segv=0"}});
  CHECK_EQ(child.readLine(), "touching");
  CHECK(child.wait() != 0);
}

TEST(cuda_stand_in_has_memory_that_the_host_cannot_touch) { inChild("cuda_touch_parent"); }

}  // namespace
}  // namespace kvferry::test
