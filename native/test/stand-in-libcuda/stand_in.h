// Inside of the stand-in for libcuda.so.1.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#define STAND_IN_EXPORT extern "C" __attribute__((visibility("default")))

namespace stand_in {

constexpr int kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kNoDevice = 100, kInvalidDevice = 101, kInvalidContext = 201,
              kMapFailed = 205, kAlreadyMapped = 208, kInvalidHandle = 400, kNotReady = 600, kIllegalAddress = 700, kAlreadyRegistered = 712,
              kNotRegistered = 713, kNotSupported = 801;
constexpr uint8_t kPoison = 0xDB;

// settings.cc
const char* setting(const char* name);
uint64_t numberSetting(const char* name, uint64_t fallback);

/** The context of one device in this process. */
struct Context {
  int ordinal = 0;
  int retained = 0;
  std::atomic<int> sticky{0};
};

// devices.cc
int deviceCount();
Context* currentContext();
/** First line of each call: what it gives instead of doing something, or 0. `inContext`: it needs a context that is sound. */
int enter(const char* call, bool inContext);
/** The injected result of a call, or 0; a sticky one breaks the context. */
int injected(const char* call, Context* context);
bool isSticky(int result);

// memory.cc
/** Device memory: reserved here, its bytes in a file that processes share. */
struct Allocation {
  uint64_t address = 0;
  uint64_t bytes = 0;
  int ordinal = 0;
  std::string file;
  std::string record;  // of a mapping of another process's memory; "" for memory of one's own
  uint8_t* physical = nullptr;
  std::atomic<uint32_t>* freed = nullptr;  // in the file
  ~Allocation();
};
/** That holds [address, address + bytes), or nullptr. */
std::shared_ptr<Allocation> allocationAt(uint64_t address, uint64_t bytes);
enum class HostKind { Pageable, Pinned, Partly };
HostKind hostKind(const void* memory, uint64_t bytes);

// folder.cc
/** Whether the process that a name was made by is there: a zombie is not. */
struct Owner {
  int pid = 0;
  uint64_t startTime = 0;
  static Owner self();
  bool alive() const;
};
std::string folder();
/** Device memory in use, all processes'; removes what nobody alive owns or maps. `ordinal` -1: of all devices. */
uint64_t usedBytes(int ordinal);
std::string memoryName(int ordinal, const Owner& owner, uint64_t number, uint64_t bytes);
std::string mappingName(const std::string& memory);
/** Alone in the folder among all processes. */
struct FolderLock {
  FolderLock();
  ~FolderLock();
  int fd;
};

// streams.cc
struct Stream {
  Context* context;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> queue;
  uint64_t submitted = 0;
  uint64_t done = 0;
  bool ending = false;
  std::thread thread;
};
struct Event {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0;
  uint64_t completed = 0;
};
/** Runs `work` on the stream, after what was given to it before. */
void submit(Stream* stream, std::function<void()> work);
void drain(Stream* stream);
void delay(uint64_t microsMax);
uint64_t randomNumber();

// copies.cc
struct Copy {
  bool toDevice = false;
  std::shared_ptr<Allocation> allocation;
  uint64_t offset = 0;
  uint8_t* host = nullptr;
  uint64_t bytes = 0;
  bool pinned = false;
};
/** Fills in the allocation and checks both sides. */
int prepare(Copy& copy, bool toDevice, uint64_t address, const void* host, uint64_t bytes);
/** In any order; at once where one of them is of pageable memory. */
int start(std::vector<Copy> copies, Stream* stream);
int runCopy(const Copy& copy, Context* context);
int batch(uint64_t* to, uint64_t* from, size_t* bytes, size_t count, void* attributes, size_t* indexes,
          size_t attributeCount, Stream* stream);

struct Counters {
  std::atomic<uint64_t> contexts, streams, events, allocations, mappings, copies, batches, copies2D;
};
Counters& counters();
void countPinned(uint64_t& ranges, uint64_t& bytes);

}  // namespace stand_in
