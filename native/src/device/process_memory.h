// A device whose memories are another process's own: cross-memory attach.
#pragma once

#include <sys/types.h>

#include <vector>

#include "device/device.h"

namespace kvferry {

/** Addresses in that process. */
struct ProcessMemory {
  uint64_t address = 0;
  uint64_t bytes = 0;
};

class ProcessDevice final : public Device {
 public:
  /** Reads a byte at both ends of each memory, to find out whether it may. Throws Error: PERMISSION that says what helps, DEVICE_LOST, DEVICE_FAILED,
   * INVALID_ARGUMENT, UNSUPPORTED (before Linux 5.3). Whoever has `pid` from a socket looks afterwards whether that is still open: then `pid` has
   * been its peer, not a process that got the number after it. */
  ProcessDevice(pid_t pid, std::vector<ProcessMemory> memories);
  ~ProcessDevice() override;

  /** DEVICE_LOST also where the process ended in mid-copy and the copy seemed to work: its number may have been another's by then. */
  void copy(Direction direction, const ChunkCopy* chunks, uint32_t count, BlockOutcome* outcomes) noexcept override;

 private:
  void probe() const;
  bool ended() const noexcept;
  /** An errno, or 0. */
  int copyChunk(Direction direction, const ChunkCopy& chunk) const noexcept;

  const pid_t pid_;
  const std::vector<ProcessMemory> memories_;
  /** Readable once the process has ended; its number is not given to another before that. */
  int pidfd_ = -1;
};

}  // namespace kvferry
