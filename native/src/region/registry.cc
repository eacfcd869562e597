#include "region/registry.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <mutex>

#include "common/codes.h"

namespace kvferry {
namespace {

RegistryEntry entries[kRegionsMax];
/** Entries ever used: the handler looks no further. */
std::atomic<size_t> entriesUsed{0};
std::mutex entriesMutex;
struct sigaction previousAction;

/** Async-signal-safe: atomics and one system call. */
bool replacePage(uintptr_t address) {
  const size_t used = entriesUsed.load(std::memory_order_acquire);
  for (size_t i = 0; i < used; i++) {
    RegistryEntry& entry = entries[i];
    const uint32_t version = entry.version.load(std::memory_order_acquire);
    const uintptr_t begin = entry.begin.load(std::memory_order_acquire);
    const uintptr_t end = entry.end.load(std::memory_order_acquire);
    const uintptr_t pageBytes = entry.pageBytes.load(std::memory_order_acquire);
    if (version % 2 != 0 || entry.version.load(std::memory_order_acquire) != version) continue;
    if (address < begin || address >= end) continue;
    // Set first: a thread that goes on with the empty page must find the flag when it looks afterwards.
    entry.gone.store(true, std::memory_order_release);
    void* page = reinterpret_cast<void*>(address / pageBytes * pageBytes);
    // The system call itself, because nothing promises that libc's mmap may be called from a signal handler.
    return syscall(SYS_mmap, page, pageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
           -1;
  }
  return false;
}

void onBusError(int signal, siginfo_t* info, void* context) {
  const int savedErrno = errno;
  // si_code > 0: from the kernel, so si_addr is an address.
  if (info->si_code > 0 && replacePage(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = savedErrno;
    return;
  }
  errno = savedErrno;
  if ((previousAction.sa_flags & SA_SIGINFO) != 0 && previousAction.sa_sigaction != nullptr) {
    previousAction.sa_sigaction(signal, info, context);
  } else if (previousAction.sa_handler != SIG_DFL && previousAction.sa_handler != SIG_IGN) {
    previousAction.sa_handler(signal);
  } else {
    // Dies as it would have without us: the fault, or the signal sent by someone, comes again.
    std::signal(signal, SIG_DFL);
    if (info->si_code <= 0) raise(signal);
  }
}

void installHandler() {
  struct sigaction action = {};
  action.sa_sigaction = onBusError;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &previousAction) != 0) throw Error::ofErrno(errno, "handle SIGBUS", "");
}

void change(RegistryEntry& entry, uintptr_t begin, uintptr_t end, uintptr_t pageBytes) {
  entry.version.fetch_add(1, std::memory_order_acq_rel);
  entry.begin.store(begin, std::memory_order_release);
  entry.end.store(end, std::memory_order_release);
  entry.pageBytes.store(pageBytes, std::memory_order_release);
  entry.version.fetch_add(1, std::memory_order_acq_rel);
}

}  // namespace

RegistryEntry* registerRange(const void* begin, size_t bytes, size_t pageBytes) {
  static std::once_flag installed;
  std::call_once(installed, installHandler);
  const std::lock_guard lock(entriesMutex);
  size_t index = 0;
  const size_t used = entriesUsed.load(std::memory_order_relaxed);
  while (index < used && entries[index].end.load(std::memory_order_relaxed) != 0) index++;
  if (index == kRegionsMax) {
    throw Error(Code::Busy, "no more than " + std::to_string(kRegionsMax) + " regions can be mapped at a time");
  }
  RegistryEntry& entry = entries[index];
  entry.gone.store(false, std::memory_order_release);
  const auto start = reinterpret_cast<uintptr_t>(begin);
  change(entry, start, start + bytes, pageBytes);
  if (index == used) entriesUsed.store(used + 1, std::memory_order_release);
  return &entry;
}

void unregisterRange(RegistryEntry* entry) {
  const std::lock_guard lock(entriesMutex);
  change(*entry, 0, 0, 0);
}

}  // namespace kvferry
