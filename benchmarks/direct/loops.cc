// What `copies.mjs` compares with: bare loops over the same pages. Owns the "engine's" memory, once in a process of its own and once in this one.
// Usage: loops HOST BLOCKS memoryBytes tensors pageBytes blocksPerChunk chunks threads
//   HOST: file of the host memory; BLOCKS: chunks × blocksPerChunk page numbers, u32. Tensors lie one after the other, pages without gaps.
// Prints {"pid", "address"} of the other process; then, for each line "memcpy|bare gather|scatter", {"seconds", "cpuSeconds"}.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPiecesMax = 1024;

struct Workload {
  uint8_t* host;
  std::vector<uint32_t> blocks;
  size_t memoryBytes, tensors, pageBytes, blocksPerChunk, chunks, threads;
};

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

uint8_t* newMemory(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  return static_cast<uint8_t*>(memory);
}

/** Calls each(page in the engine's memory, place in the host memory) for the pages of a chunk. */
template <typename Each>
void forPages(const Workload& work, uint8_t* engine, size_t chunk, Each each) {
  const size_t tensorBytes = work.memoryBytes / work.tensors;
  uint8_t* host = work.host + chunk * work.tensors * work.blocksPerChunk * work.pageBytes;
  for (size_t t = 0; t < work.tensors; t++) {
    for (size_t i = 0; i < work.blocksPerChunk; i++) {
      each(engine + t * tensorBytes + work.blocks[chunk * work.blocksPerChunk + i] * work.pageBytes, host);
      host += work.pageBytes;
    }
  }
}

void copyHere(const Workload& work, uint8_t* engine, size_t chunk, bool gather) {
  forPages(work, engine, chunk, [&](uint8_t* page, uint8_t* host) {
    std::memcpy(gather ? host : page, gather ? page : host, work.pageBytes);
  });
}

void copyBare(const Workload& work, uint8_t* engine, pid_t pid, size_t chunk, bool gather) {
  iovec here[kPiecesMax];
  iovec there[kPiecesMax];
  size_t count = 0;
  const auto flush = [&] {
    const ssize_t moved = gather ? process_vm_readv(pid, here, count, there, count, 0)
                                 : process_vm_writev(pid, here, count, there, count, 0);
    if (moved != static_cast<ssize_t>(count * work.pageBytes)) fail("process_vm");
    count = 0;
  };
  forPages(work, engine, chunk, [&](uint8_t* page, uint8_t* host) {
    here[count] = {host, work.pageBytes};
    there[count++] = {page, work.pageBytes};
    if (count == kPiecesMax) flush();
  });
  if (count > 0) flush();
}

template <typename CopyChunk>
void onThreads(const Workload& work, CopyChunk copyChunk) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < work.threads; i++) {
    threads.emplace_back([&] {
      for (size_t chunk; (chunk = next++) < work.chunks;) copyChunk(chunk);
    });
  }
  for (auto& thread : threads) thread.join();
}

double cpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9) return 2;
  const auto number = [&](int i) { return static_cast<size_t>(std::strtoull(argv[i], nullptr, 10)); };
  Workload work{nullptr, {}, number(3), number(4), number(5), number(6), number(7), number(8)};
  const size_t hostBytes = work.chunks * work.tensors * work.blocksPerChunk * work.pageBytes;
  const int file = open(argv[1], O_RDWR | O_CLOEXEC);
  void* const host = mmap(nullptr, hostBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (file < 0 || host == MAP_FAILED) fail(argv[1]);
  work.host = static_cast<uint8_t*>(host);
  work.blocks.resize(work.chunks * work.blocksPerChunk);
  const int list = open(argv[2], O_RDONLY | O_CLOEXEC);
  const auto listBytes = static_cast<ssize_t>(work.blocks.size() * sizeof(uint32_t));
  if (list < 0 || read(list, work.blocks.data(), static_cast<size_t>(listBytes)) != listBytes) fail(argv[2]);

  uint8_t* const theirs = newMemory(work.memoryBytes);
  const pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::memset(theirs, 1, work.memoryBytes);
    std::printf("{\"pid\": %d, \"address\": %llu}\n", getpid(), static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(theirs)));
    std::fflush(stdout);
    while (true) pause();
  }
  uint8_t* const ours = newMemory(work.memoryBytes);
  std::memset(ours, 1, work.memoryBytes);
  char loop[16];
  char direction[16];
  while (std::scanf("%15s %15s", loop, direction) == 2) {
    const bool gather = direction[0] == 'g';
    const double cpuBefore = cpuSeconds();
    const auto begin = std::chrono::steady_clock::now();
    if (loop[0] == 'm') {
      onThreads(work, [&](size_t chunk) { copyHere(work, ours, chunk, gather); });
    } else {
      onThreads(work, [&](size_t chunk) { copyBare(work, theirs, pid, chunk, gather); });
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    std::printf("{\"seconds\": %.9f, \"cpuSeconds\": %.6f}\n", took.count(), cpuSeconds() - cpuBefore);
    std::fflush(stdout);
  }
  kill(pid, SIGKILL);
  return 0;
}
