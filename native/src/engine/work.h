// What engines work off: batches of units, and units that are transfers between memory and an open file.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "common/aligned.h"
#include "common/codes.h"

namespace kvferry {

class Region;

enum class Priority : uint8_t { Load, Store };

/** For tests: says how a step of a transfer goes. Bytes that it may move at most, or -errno, which is taken for its result. */
using TransferFaults = std::function<int64_t(bool writing, int64_t offset, size_t bytes)>;

constexpr int kTransferPartsMax = 64;

/** A transfer under way. It is moved in steps, however short the kernel makes them. */
struct Transfer {
  // What an operation says of it.
  bool writing = false;
  int file = -1;
  /** The same file without O_DIRECT, for what O_DIRECT cannot do; equal to `file` where that is not direct. */
  int bufferedFile = -1;
  int64_t offset = 0;
  iovec parts[kTransferPartsMax] = {};
  int count = 0;
  /** That all parts lie in, or nullptr: an engine may have its memory registered. */
  const std::shared_ptr<Region>* region = nullptr;
  const TransferFaults* faults = nullptr;
  /** The operation's own: which of its transfers this is, and how far it is. */
  uint32_t stage = 0;
  uint32_t cursor = 0;
  /** Memory of the one who runs it, for what cannot be used as it is. */
  AlignedBuffer bounce;

  /** A transfer of nothing yet, at `at`. */
  void start(bool write, int64_t at);
  /** Joined with the part before it if they touch. The caller counts: there is no room for more than `kTransferPartsMax`. */
  void add(void* memory, size_t bytes);
  size_t bytes() const;

  // What an engine does with it.
  /** The parts of the next step in `step`; a result that stands for it instead, or 0. */
  int64_t prepareStep();
  /** A step ended with `result`, bytes or -errno. True: another one must follow. */
  bool stepped(int64_t result);
  /** After the last step: bytes moved (fewer than asked only at the end of the file), or -errno. */
  int64_t result() const { return error_ != 0 ? error_ : moved_; }
  iovec step[kTransferPartsMax] = {};
  int stepCount = 0;

 private:
  int64_t moved_ = 0;
  int64_t error_ = 0;
  uint32_t tries_ = 0;
};

/** The transfers of a batch's units. Thread-safe for different units. */
class IoOperation {
 public:
  virtual ~IoOperation() = default;
  /** Describes the unit's next transfer; false if there is none (any more), and the unit is done. First called with stage 0. */
  virtual bool begin(uint32_t unit, Transfer& transfer) noexcept = 0;
  /** Once for each transfer, before it has ended, perhaps while it runs. */
  virtual void meanwhile(uint32_t unit, Transfer& transfer) noexcept = 0;
  /** The transfer has ended. */
  virtual void complete(uint32_t unit, Transfer& transfer) noexcept = 0;
};

/** Moves all of it with system calls that block; what `result` says. */
int64_t moveBlocking(Transfer& transfer) noexcept;

/** Does a unit with system calls that block. */
void runBlocking(IoOperation& operation, uint32_t unit, Transfer& transfer) noexcept;

/** What each thread owns, so that no unit allocates. */
struct ThreadState {
  /** One block with its footer, where the caller's memory cannot be used as it is. */
  AlignedBuffer bounce;
  /** One block, where the caller's memory may be taken away during I/O. */
  AlignedBuffer block;
  /** A page of padding, then a footer. */
  AlignedBuffer footer;
  Transfer transfer;
};

/** A batch: `units` pieces of work that any thread may take in any order. One allocation, made by the submitter. */
class Work {
 public:
  Work(Priority priority, uint32_t units) : priority(priority), units(units), remaining_(units) {}
  virtual ~Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  /** Does unit i. Called once for each unit unless `skip` is, or an engine does the transfers of `io` instead. */
  virtual void run(uint32_t unit, ThreadState& state) noexcept = 0;
  /** The units as transfers, if they are that. */
  virtual IoOperation* io() noexcept { return nullptr; }
  /** Unit i will not be done, because of `why`. */
  virtual void skip(uint32_t unit, Code why) noexcept = 0;
  /** All units are done or skipped. The last call, on any thread, never with a lock held. */
  virtual void finish() noexcept = 0;
  /** Whether `abandon` may be called. */
  virtual bool isAbandonable() const noexcept { return false; }
  /** Units under way are given up because of `why`: from the end of this call on they touch no memory but their own, and what they
   * come to is not asked for. `finish` follows, while they may still run. */
  virtual void abandon(Code /*why*/) noexcept {}

  const Priority priority;
  const uint32_t units;

 private:
  friend class WorkQueue;
  uint32_t next_ = 0;       // first unit that no thread has taken
  uint32_t remaining_ = 0;  // units not yet done or skipped
  bool abandoned_ = false;
};

}  // namespace kvferry
