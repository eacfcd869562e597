#include "device/process_memory.h"

#include <poll.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace kvferry {
namespace {

/** What the kernel takes in a call. */
constexpr uint32_t kPiecesMax = 1024;
constexpr uint64_t kCallBytesMax = uint64_t{1} << 30;

Code codeOf(int error) {
  switch (error) {
    case ESRCH:
      return Code::DeviceLost;
    case EPERM:
      return Code::Permission;
    case ENOMEM:
      return Code::NoSpace;
    default:
      return Code::DeviceFailed;
  }
}

/** Pieces of memory, those that touch joined. */
struct Pieces {
  iovec list[kPiecesMax];
  uint32_t count = 0;

  void add(uint8_t* at, uint64_t bytes) {
    if (count > 0) {
      iovec& last = list[count - 1];
      if (static_cast<uint8_t*>(last.iov_base) + last.iov_len == at) {
        last.iov_len += bytes;
        return;
      }
    }
    list[count++] = {at, static_cast<size_t>(bytes)};
  }
};

Error cannotOpen(int error, pid_t pid) {
  const std::string what = "the memory of process " + std::to_string(pid) + " cannot be read: " + errnoName(error);
  if (error != EPERM) return Error(codeOf(error), what, error);
  return Error(Code::Permission,
               what + ". It must belong to this user and, where Yama restricts ptrace (kernel.yama.ptrace_scope is 1), name this process "
                      "with prctl(PR_SET_PTRACER); with ptrace_scope 2 or 3, in a container without SYS_PTRACE or with a seccomp filter that "
                      "refuses process_vm_readv, use tier mode instead",
               error);
}

}  // namespace

ProcessDevice::ProcessDevice(pid_t pid, std::vector<ProcessMemory> memories) : pid_(pid), memories_(std::move(memories)) {
  pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (pidfd_ < 0) {
    const int error = errno;
    if (error == ENOSYS) throw Error(Code::Unsupported, "memory of other processes needs Linux 5.3 or newer; use tier mode", error);
    if (error == EMFILE || error == ENFILE) throw Error::ofErrno(error, "open the process", "");
    throw cannotOpen(error, pid);
  }
  try {
    probe();
  } catch (...) {
    close(pidfd_);
    throw;
  }
}

ProcessDevice::~ProcessDevice() { close(pidfd_); }

void ProcessDevice::probe() const {
  for (size_t i = 0; i < memories_.size(); i++) {
    const ProcessMemory& memory = memories_[i];
    uint8_t bytes[2];
    const iovec local{bytes, sizeof(bytes)};
    const iovec remote[2] = {{reinterpret_cast<void*>(memory.address), 1},
                             {reinterpret_cast<void*>(memory.address + memory.bytes - 1), 1}};
    const ssize_t read = process_vm_readv(pid_, &local, 1, remote, 2, 0);
    const int error = read < 0 ? errno : EFAULT;
    if (ended()) throw cannotOpen(ESRCH, pid_);
    if (read == sizeof(bytes)) continue;
    if (error != EFAULT) throw cannotOpen(error, pid_);
    throw Error(Code::DeviceFailed,
                "memory.memories[" + std::to_string(i) + "] is not mapped in process " + std::to_string(pid_), error, {},
                "memory.memories[" + std::to_string(i) + "]");
  }
}

bool ProcessDevice::ended() const noexcept {
  pollfd file{pidfd_, POLLIN, 0};
  return poll(&file, 1, 0) != 0;
}

void ProcessDevice::copy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept {
  if (ended()) return void(std::fill_n(outcomes, count, failed(Code::DeviceLost)));
  const Outcome good = direction == Direction::Gather ? Outcome::Stored : Outcome::Loaded;
  for (uint32_t i = 0; i < count; i++) {
    const int error = copyChunk(direction, chunks[i]);
    outcomes[i] = error == 0 ? BlockOutcome{good, Code::None} : failed(codeOf(error));
  }
  if (ended()) std::fill_n(outcomes, count, failed(Code::DeviceLost));
}

int ProcessDevice::copyChunk(Direction direction, const ChunkCopy& chunk) const noexcept {
  uint32_t first = 0;
  uint64_t moved = 0;  // of the first fragment
  while (first < chunk.count) {
    Pieces here;
    Pieces there;
    uint64_t bytes = 0;
    uint64_t skip = moved;
    for (uint32_t i = first; i < chunk.count && bytes < kCallBytesMax; i++) {
      if (here.count == kPiecesMax || there.count == kPiecesMax) break;
      const Fragment& fragment = chunk.fragments[i];
      const uint64_t piece = std::min(fragment.bytes - skip, kCallBytesMax - bytes);
      here.add(chunk.host + fragment.hostAt + skip, piece);
      there.add(reinterpret_cast<uint8_t*>(memories_[fragment.memory].address) + fragment.at + skip, piece);
      bytes += piece;
      skip = 0;
    }
    const ssize_t result = direction == Direction::Gather
                               ? process_vm_readv(pid_, here.list, here.count, there.list, there.count, 0)
                               : process_vm_writev(pid_, here.list, here.count, there.list, there.count, 0);
    if (result < 0 && errno == EINTR) continue;
    if (result <= 0) return result < 0 ? errno : EFAULT;
    // As much as the kernel has done: it ends early before what it cannot reach, and says why when asked for that.
    moved += static_cast<uint64_t>(result);
    while (first < chunk.count && moved >= chunk.fragments[first].bytes) moved -= chunk.fragments[first++].bytes;
  }
  return 0;
}

}  // namespace kvferry
