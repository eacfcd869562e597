// Memory of another process: every byte comes and goes, pages that are not there cost their chunk, and a process that ends costs nobody else anything.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "device/process_memory.h"
#include "device_fixture.h"

namespace kvferry::test {
namespace {

/** A forked process that holds memory of its own at an address that is not mapped here any more, and waits to be killed. */
class Child {
 public:
  /** `prepare`: what it does first, in that process; it must not allocate. */
  template <typename Prepare>
  Child(size_t bytes, uint64_t seed, Prepare prepare) : bytes_(bytes) {
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memory_ = static_cast<uint8_t*>(memory);
    int ready[2];
    CHECK_EQ(pipe(ready), 0);
    pid_ = fork();
    CHECK(pid_ >= 0);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (size_t i = 0; i < bytes; i++) memory_[i] = byteAt(seed, i);
      prepare(memory_);
      if (write(ready[1], "r", 1) != 1) _exit(1);
      while (true) pause();
    }
    munmap(memory, bytes);
    close(ready[1]);
    char word;
    CHECK_EQ(read(ready[0], &word, 1), 1);
    close(ready[0]);
  }
  Child(size_t bytes, uint64_t seed) : Child(bytes, seed, [](uint8_t*) {}) {}
  ~Child() { end(); }

  /** No number theory: every byte of a page differs from its neighbours and from the same byte of other pages. */
  static uint8_t byteAt(uint64_t seed, size_t i) { return static_cast<uint8_t>(seed + i * 29 + (i >> 8) * 7 + (i >> 16)); }

  void kill() { ::kill(pid_, SIGKILL); }
  /** Killed, and its number given back. */
  void end() {
    if (pid_ < 0) return;
    kill();
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

  pid_t pid() const { return pid_; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(memory_); }
  size_t bytes() const { return bytes_; }
  std::unique_ptr<ProcessDevice> device() const {
    return std::make_unique<ProcessDevice>(pid_, std::vector<ProcessMemory>{{address(), bytes_}});
  }
  /** By another way than the one under test. */
  std::vector<uint8_t> contents() const {
    std::vector<uint8_t> result(bytes_);
    const int file = open(("/proc/" + std::to_string(pid_) + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    CHECK_EQ(pread(file, result.data(), bytes_, static_cast<off_t>(address())), static_cast<ssize_t>(bytes_));
    close(file);
    return result;
  }

 private:
  const size_t bytes_;
  uint8_t* memory_;
  pid_t pid_ = -1;
};

/** Pages of `pageBytes`, each a fragment of its own. */
DeviceLayout pagesOf(uint64_t pageBytes, uint64_t strideBytes, uint64_t memoryBytes, uint32_t blocksPerChunk) {
  const uint64_t pages = (memoryBytes - pageBytes) / strideBytes + 1;
  return DeviceLayout({{{0, 0, strideBytes, pageBytes, pages}}, {{{0, pageBytes}}}, blocksPerChunk}, {memoryBytes});
}

BlockOutcome copyOne(Device& device, const DeviceLayout& layout, Direction direction, uint8_t* host,
                     const std::vector<uint32_t>& blocks, uint32_t group = 0) {
  const Part part{host, group, blocks.data()};
  BlockOutcome outcome;
  copyParts(device, layout, direction, &part, 1, nullptr, &outcome);
  return outcome;
}

Code openingCode(pid_t pid, uint64_t address, uint64_t bytes, std::string* message = nullptr) {
  try {
    const ProcessDevice device(pid, {{address, bytes}});
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code;
  }
  return Code::None;
}

}  // namespace

TEST(process_memory_is_gathered_and_scattered_byte_by_byte) {
  Random random(7);
  const Child child(64 * 1024, 3);
  for (int round = 0; round < 150; round++) {
    const LayoutShape shape = randomShape(random, {child.bytes()});
    const DeviceLayout layout(shape, {child.bytes()});
    const auto device = child.device();
    const auto group = static_cast<uint32_t>(upTo(random, layout.groups() - 1));
    const auto blocks = randomBlocks(random, layout, group);
    const auto before = child.contents();
    std::vector<uint8_t> host(layout.partBytes() + 1, 0xaa);
    CHECK_EQ(copyOne(*device, layout, Direction::Gather, host.data(), blocks, group), kStored);
    const auto wanted = gatheredPart(shape, {before}, layout.partBytes(), group, blocks.data());
    CHECK(std::equal(wanted.begin(), wanted.end(), host.begin()));
    CHECK_EQ(int{host.back()}, 0xaa);

    for (uint8_t& byte : host) byte = static_cast<uint8_t>(random());
    auto after = before;
    forPages(shape, group, blocks.data(), [&](uint32_t, uint64_t at, uint64_t hostAt, uint64_t bytes) {
      std::memcpy(after.data() + at, host.data() + hostAt, bytes);
    });
    CHECK_EQ(copyOne(*device, layout, Direction::Scatter, host.data(), blocks, group), kLoaded);
    CHECK(child.contents() == after);
  }
}

TEST(more_pages_than_one_call_takes_are_all_copied) {
  constexpr uint32_t kPages = 5000;
  const Child child(kPages * 32, 9);
  const DeviceLayout layout = pagesOf(21, 32, child.bytes(), kPages);
  const auto device = child.device();
  Random random(1);
  std::vector<uint32_t> blocks(kPages);
  for (uint32_t i = 0; i < kPages; i++) blocks[i] = i;
  std::shuffle(blocks.begin(), blocks.end(), random);
  std::vector<uint8_t> host(layout.partBytes());
  CHECK_EQ(copyOne(*device, layout, Direction::Gather, host.data(), blocks), kStored);
  for (size_t i = 0; i < host.size(); i++) CHECK_EQ(host[i], Child::byteAt(9, blocks[i / 21] * size_t{32} + i % 21));
  for (size_t i = 0; i < host.size(); i++) host[i] = static_cast<uint8_t>(i * 3 + 1);
  CHECK_EQ(copyOne(*device, layout, Direction::Scatter, host.data(), blocks), kLoaded);
  const auto contents = child.contents();
  for (size_t i = 0; i < host.size(); i++) CHECK_EQ(contents[blocks[i / 21] * size_t{32} + i % 21], host[i]);
}

TEST(a_page_that_is_not_there_costs_its_chunk_only) {
  constexpr size_t kPage = 4096;
  const Child child(16 * kPage, 5, [](uint8_t* memory) {
    munmap(memory + 6 * kPage, kPage);
    mprotect(memory + 9 * kPage, kPage, PROT_READ);
  });
  const auto device = child.device();
  const DeviceLayout layout = pagesOf(kPage, kPage, child.bytes(), 3);
  const std::vector<uint32_t> blocks{0, 1, 2, 4, 5, 6, 8, 9, 10};
  std::vector<uint8_t> host(3 * layout.partBytes());
  Part parts[3];
  for (uint32_t i = 0; i < 3; i++) parts[i] = {host.data() + i * layout.partBytes(), 0, blocks.data() + size_t{i} * 3};
  BlockOutcome outcomes[3];
  copyParts(*device, layout, Direction::Gather, parts, 3, nullptr, outcomes);
  CHECK_EQ(outcomes[0], kStored);
  CHECK_EQ(outcomes[1], failed(Code::DeviceFailed));
  CHECK_EQ(outcomes[2], kStored);
  for (size_t i = 0; i < 3 * kPage; i++) CHECK_EQ(host[6 * kPage + i], Child::byteAt(5, 8 * kPage + i));
  copyParts(*device, layout, Direction::Scatter, parts, 3, nullptr, outcomes);
  CHECK_EQ(outcomes[0], kLoaded);
  CHECK_EQ(outcomes[1], failed(Code::DeviceFailed));
  CHECK_EQ(outcomes[2], failed(Code::DeviceFailed));
  CHECK_EQ(openingCode(child.pid(), child.address() + 6 * kPage, kPage), Code::DeviceFailed);
  CHECK_EQ(openingCode(child.pid(), child.address() + 5 * kPage, kPage + 1), Code::DeviceFailed);
  CHECK_EQ(openingCode(child.pid(), child.address() + 5 * kPage, kPage), Code::None);
}

TEST(host_memory_that_was_cut_short_is_region_gone_without_a_signal) {
  const Scratch scratch;
  constexpr size_t kRow = 16 * 4096;
  const Child child(kRow, 1);
  const auto device = child.device();
  const DeviceLayout layout = pagesOf(4096, 4096, child.bytes(), 16);
  std::vector<uint32_t> blocks(16);
  for (uint32_t i = 0; i < 16; i++) blocks[i] = 15 - i;
  for (const Direction direction : {Direction::Gather, Direction::Scatter}) {
    for (const bool absent : {false, true}) {
      const std::string path = scratch / std::to_string(static_cast<int>(direction) * 2 + absent);
      const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
      CHECK_EQ(ftruncate(file, kRow), 0);
      const auto region = Region::mapPath(path, {1, kRow, 0});
      // With a page that is absent, this process itself touches what is gone.
      auto some = blocks;
      if (absent) some[12] = kNoBlock;
      const Part part{region->data(), 0, some.data()};
      BlockOutcome outcome;
      copyParts(*device, layout, direction, &part, 1, region.get(), &outcome);
      CHECK_EQ(outcome, direction == Direction::Gather ? kStored : kLoaded);
      CHECK_EQ(ftruncate(file, 4 * 4096), 0);
      copyParts(*device, layout, direction, &part, 1, region.get(), &outcome);
      CHECK_EQ(outcome, failed(Code::RegionGone));
      close(file);
    }
  }
}

TEST(zeros_that_met_missing_pages_are_region_gone) {
  const Scratch scratch;
  const Child child(8192, 1);
  const auto device = child.device();
  const DeviceLayout layout = pagesOf(4096, 4096, child.bytes(), 2);
  const std::string path = scratch / "host";
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  CHECK_EQ(ftruncate(file, 8192), 0);
  const auto region = Region::mapPath(path, {1, 8192, 0});
  CHECK_EQ(ftruncate(file, 4096), 0);
  // All that comes from the process finds its place.
  const uint32_t blocks[] = {0, kNoBlock};
  const Part part{region->data(), 0, blocks};
  BlockOutcome outcome;
  copyParts(*device, layout, Direction::Gather, &part, 1, region.get(), &outcome);
  CHECK_EQ(outcome, failed(Code::RegionGone));
  close(file);
}

TEST(a_process_that_has_ended_is_lost) {
  Child child(8192, 1);
  const DeviceLayout layout = pagesOf(4096, 4096, child.bytes(), 2);
  const auto device = child.device();
  std::vector<uint8_t> host(layout.partBytes());
  CHECK_EQ(copyOne(*device, layout, Direction::Gather, host.data(), {0, 1}), kStored);
  const pid_t pid = child.pid();
  child.kill();
  // Not waited for: the number is still its own.
  siginfo_t info;
  CHECK_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  CHECK_EQ(copyOne(*device, layout, Direction::Gather, host.data(), {0, 1}), failed(Code::DeviceLost));
  CHECK_EQ(openingCode(pid, child.address(), child.bytes()), Code::DeviceLost);
  child.end();
  CHECK_EQ(copyOne(*device, layout, Direction::Scatter, host.data(), {0, 1}), failed(Code::DeviceLost));
  // Nothing to copy, but also nobody there.
  CHECK_EQ(copyOne(*device, layout, Direction::Gather, host.data(), {kNoBlock, kNoBlock}), failed(Code::DeviceLost));
  CHECK_EQ(openingCode(pid, child.address(), child.bytes()), Code::DeviceLost);
}

TEST(a_process_that_ends_in_mid_copy_is_lost_even_if_its_bytes_came) {
  // The kernel stops in the middle of the copy, at a page of ours that is not there before we give it.
  const auto faults = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (faults < 0) SKIP("no userfaultfd for this user");
  uffdio_api api{UFFD_API, 0, 0};
  CHECK_EQ(ioctl(faults, UFFDIO_API, &api), 0);
  void* const memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  auto* const host = static_cast<uint8_t*>(memory);
  const uffdio_range range{reinterpret_cast<uint64_t>(memory), 4096};
  uffdio_register watched{range, UFFDIO_REGISTER_MODE_MISSING, 0};
  CHECK_EQ(ioctl(faults, UFFDIO_REGISTER, &watched), 0);

  Child child(4096, 1);
  const DeviceLayout layout = pagesOf(4096, 4096, child.bytes(), 1);
  const auto device = child.device();
  BlockOutcome outcome;
  std::thread copying([&] { outcome = copyOne(*device, layout, Direction::Gather, host, {0}); });
  pollfd fault{faults, POLLIN, 0};
  const int stopped = poll(&fault, 1, 60'000);
  child.end();
  uffdio_zeropage page{range, 0, 0};
  const int given = ioctl(faults, UFFDIO_ZEROPAGE, &page);
  copying.join();
  CHECK_EQ(stopped, 1);
  CHECK_EQ(fault.revents, POLLIN);
  CHECK_EQ(given, 0);
  CHECK_EQ(host[17], Child::byteAt(1, 17));
  CHECK_EQ(outcome, failed(Code::DeviceLost));
  munmap(memory, 4096);
  close(faults);
}

TEST(a_process_that_may_not_be_read_is_refused_with_what_helps) {
  // Not dumpable, and the one who asks has no capability: what Yama and containers come to.
  const Child child(4096, 1, [](uint8_t*) { prctl(PR_SET_DUMPABLE, 0); });
  int answer[2];
  CHECK_EQ(pipe(answer), 0);
  const pid_t asker = fork();
  CHECK(asker >= 0);
  if (asker == 0) {
    if (geteuid() == 0 && (setgid(65'534) != 0 || setuid(65'534) != 0)) _exit(1);
    std::string message;
    const Code code = openingCode(child.pid(), child.address(), child.bytes(), &message);
    message = std::string(codeName(code)) + " " + message;
    _exit(write(answer[1], message.data(), message.size()) == static_cast<ssize_t>(message.size()) ? 0 : 1);
  }
  close(answer[1]);
  char text[1000];
  const ssize_t length = read(answer[0], text, sizeof(text));
  close(answer[0]);
  int status = 1;
  waitpid(asker, &status, 0);
  CHECK(length > 0);
  const std::string message(text, static_cast<size_t>(length));
  CHECK_EQ(message.substr(0, message.find(' ')), "PERMISSION");
  for (const char* word : {"PR_SET_PTRACER", "Yama", "container", "tier mode", "EPERM"}) {
    CHECK(message.find(word) != std::string::npos);
  }
  CHECK_EQ(status, 0);
}

TEST(processes_killed_in_mid_copy_are_lost_and_nothing_hangs) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kRounds = 40;  // forking costs a sanitizer ten times as much
#else
  constexpr int kRounds = 200;
#endif
  constexpr size_t kPage = 4096;
  constexpr size_t kPageBytes = 3000;
  constexpr uint32_t kBlocks = 64;
  for (int round = 0; round < kRounds; round++) {
    const auto seed = static_cast<uint64_t>(round);
    Child child(kBlocks * kPage, seed);
    const auto device = child.device();
    const DeviceLayout layout = pagesOf(kPageBytes, kPage, child.bytes(), kBlocks);
    std::vector<uint32_t> blocks(kBlocks);
    for (uint32_t i = 0; i < kBlocks; i++) blocks[i] = (i * 37 + static_cast<uint32_t>(round)) % kBlocks;
    const auto byteAt = [&](size_t i) {
      return Child::byteAt(seed, blocks[i / kPageBytes] * kPage + i % kPageBytes);
    };
    std::atomic<int> copies{0};
    std::atomic<bool> wrong{false};
    // Ends when the process is lost, and in no other way.
    const auto copyOn = [&](Direction direction) {
      std::vector<uint8_t> host(layout.partBytes());
      for (size_t i = 0; i < host.size(); i++) host[i] = byteAt(i);
      const bool gather = direction == Direction::Gather;
      while (true) {
        if (gather) std::memset(host.data(), 0, host.size());
        const BlockOutcome outcome = copyOne(*device, layout, direction, host.data(), blocks);
        if (outcome == failed(Code::DeviceLost)) return;
        if (!(outcome == (gather ? kStored : kLoaded))) wrong = true;
        // Whenever the process ends: bytes that are called good are its own.
        for (size_t i = static_cast<size_t>(round) % 7; i < host.size(); i += 7) {
          if (host[i] != byteAt(i)) wrong = true;
        }
        copies++;
      }
    };
    std::thread gathers(copyOn, Direction::Gather);
    std::thread scatters(copyOn, Direction::Scatter);
    while (copies.load() < 1 + round % 3) std::this_thread::yield();
    child.kill();
    gathers.join();
    scatters.join();
    CHECK(!wrong);
  }
}

}  // namespace kvferry::test
