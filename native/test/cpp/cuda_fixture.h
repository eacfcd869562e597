// Tests of devices of kind cuda, over the stand-in for libcuda.so.1 (test/stand-in-libcuda). Each runs in a process of its own: what a driver keeps is the process's.
#pragma once

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <set>

#include "child_process.h"
#include "device/cuda/cuda_device.h"
#include "fixture.h"
#include "stand-in-libcuda/control.h"

namespace kvferry::test {

/** Runs CHILD(name) with the stand-in for a driver of that version, and fails if it does. */
inline void inChild(const std::string& name, const std::string& version = "13.0", Environment more = {}) {
  const char* const libraries = std::getenv("KVFERRY_STAND_IN_LIBCUDA");
  if (libraries == nullptr) SKIP("run by native/scripts/test-native.mjs, which builds the stand-in for libcuda.so.1");
  const Scratch scratch;
  std::filesystem::create_directory(scratch / "devices");
  more["LD_LIBRARY_PATH"] = std::string(libraries) + "/" + version;
  more["KVFERRY_STAND_IN_CUDA_FOLDER"] = scratch / "devices";
  ChildProcess child(name, more);
  CHECK_EQ(child.wait(), 0);
}

/** In a child: what the stand-in counts. */
inline StandInCounts counts() {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  StandInCounts counts{};
  reinterpret_cast<StandInCountsCall*>(dlsym(library, "kvferryStandInCudaCounts"))(&counts);
  return counts;
}

inline void failCalls(const char* call, int nth, int result, int ordinal = -1) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  reinterpret_cast<StandInFailCall*>(dlsym(library, "kvferryStandInCudaFail"))(call, nth, result, ordinal);
}

inline void checkNothingIsLeft() {
  const StandInCounts now = counts();
  CHECK_EQ(now.contexts, 0u);
  CHECK_EQ(now.streams, 0u);
  CHECK_EQ(now.events, 0u);
  CHECK_EQ(now.pinnedRanges, 0u);
  CHECK_EQ(now.mappings, 0u);
  CHECK_EQ(now.deviceBytes, 0u);
}

inline std::array<uint8_t, 16> uuidOf(int ordinal) {
  std::array<uint8_t, 16> uuid{};
  std::memcpy(uuid.data(), "kvferry-stand-i", 15);
  uuid[15] = static_cast<uint8_t>(ordinal);
  return uuid;
}

/** Bytes that tell their place and the seed. */
inline void fillPattern(uint8_t* memory, size_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  size_t i = 0;
  for (; i + 8 <= bytes; i += 8) {
    const uint64_t word = random();
    std::memcpy(memory + i, &word, 8);
  }
  for (; i < bytes; i++) memory[i] = static_cast<uint8_t>(random());
}

/** An "engine": a process with device memory (CHILD(cuda_engine)). */
class Engine {
 public:
  /** Allocates and fills with the pattern of `seed`. */
  CudaMemory allocate(int ordinal, uint64_t bytes, uint64_t seed) {
    const std::string hex =
        child_.ask("allocate " + std::to_string(ordinal) + " " + std::to_string(bytes) + " " + std::to_string(seed));
    CudaMemory memory;
    for (size_t i = 0; i < memory.handle.size(); i++) {
      memory.handle[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
    }
    memory.bytes = bytes;
    return memory;
  }
  /** CRC-32C of the nth allocation, read by the engine itself. */
  uint32_t sum(int number) { return static_cast<uint32_t>(std::stoul(child_.ask("sum " + std::to_string(number)))); }
  void free(int number) { child_.ask("free " + std::to_string(number)); }
  void kill() {
    child_.kill();
    child_.wait();
  }
  ChildProcess& process() { return child_; }

 private:
  ChildProcess child_{"cuda_engine"};
};

inline std::unique_ptr<Device> openOn(int ordinal, std::vector<CudaMemory> memories) {
  return openCudaDevice({uuidOf(ordinal), std::move(memories)});
}

/** The code that `action` throws, or None. */
template <typename Action>
Code codeThrown(Action action, std::string* message = nullptr) {
  try {
    action();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code;
  }
  return Code::None;
}

/** Copies one chunk of one fragment. */
inline BlockOutcome copyOne(Device& device, Direction direction, uint8_t* host, const Fragment& fragment) {
  BlockOutcome outcome;
  const ChunkCopy chunk{host, &fragment, 1};
  device.copy(direction, &chunk, 1, &outcome);
  return outcome;
}

}  // namespace kvferry::test
