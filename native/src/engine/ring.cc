#include "engine/ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "common/codes.h"

// Newer than some headers; the kernel says EINVAL where it does not know them.
#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

namespace kvferry {
namespace {

/** From the best to what any kernel knows. */
constexpr unsigned kFlagSets[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SINGLE_ISSUER,
    IORING_SETUP_COOP_TASKRUN,
    0,
};

template <typename Pointer>
Pointer at(void* base, unsigned offset) {
  return reinterpret_cast<Pointer>(static_cast<uint8_t*>(base) + offset);
}

int registerWith(int fd, unsigned operation, const void* argument, unsigned count) {
  const long result = syscall(__NR_io_uring_register, fd, operation, argument, count);
  return result < 0 ? -errno : 0;
}

}  // namespace

Ring::Ring(unsigned entries) {
  io_uring_params params;
  for (const unsigned flags : kFlagSets) {
    std::memset(&params, 0, sizeof(params));
    params.flags = flags;
    fd_ = static_cast<int>(syscall(__NR_io_uring_setup, entries, &params));
    if (fd_ >= 0 || errno != EINVAL) break;
  }
  if (fd_ < 0) {
    throw Error(Code::Unsupported, "io_uring is refused here: " + errnoName(errno) +
                                       " (a container's seccomp profile, or kernel.io_uring_disabled)", errno);
  }
  needsGetEvents_ = (params.flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  if ((params.features & IORING_FEAT_SINGLE_MMAP) == 0 || (params.features & IORING_FEAT_NODROP) == 0) {
    close(fd_);
    throw Error(Code::Unsupported, "this kernel's io_uring is too old; it needs Linux 5.5");
  }
  map(params);
}

void Ring::map(const io_uring_params& params) {
  const size_t submissions = params.sq_off.array + params.sq_entries * sizeof(unsigned);
  const size_t completions = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  ringsBytes_ = submissions > completions ? submissions : completions;
  sqesBytes_ = params.sq_entries * sizeof(io_uring_sqe);
  const int protection = PROT_READ | PROT_WRITE;
  rings_ = mmap(nullptr, ringsBytes_, protection, MAP_SHARED | MAP_POPULATE, fd_, IORING_OFF_SQ_RING);
  void* const sqes = mmap(nullptr, sqesBytes_, protection, MAP_SHARED | MAP_POPULATE, fd_, IORING_OFF_SQES);
  if (rings_ == MAP_FAILED || sqes == MAP_FAILED) {
    const int error = errno;
    if (rings_ != MAP_FAILED) munmap(rings_, ringsBytes_);
    if (sqes != MAP_FAILED) munmap(sqes, sqesBytes_);
    close(fd_);
    throw Error(Code::Unsupported, "io_uring's queues cannot be mapped: " + errnoName(error), error);
  }
  sqes_ = static_cast<io_uring_sqe*>(sqes);
  sqHead_ = at<unsigned*>(rings_, params.sq_off.head);
  sqTail_ = at<unsigned*>(rings_, params.sq_off.tail);
  sqMask_ = *at<unsigned*>(rings_, params.sq_off.ring_mask);
  sqArray_ = at<unsigned*>(rings_, params.sq_off.array);
  cqHead_ = at<unsigned*>(rings_, params.cq_off.head);
  cqTail_ = at<unsigned*>(rings_, params.cq_off.tail);
  cqMask_ = *at<unsigned*>(rings_, params.cq_off.ring_mask);
  cqes_ = at<io_uring_cqe*>(rings_, params.cq_off.cqes);
  madvise(rings_, ringsBytes_, MADV_DONTFORK);
  madvise(sqes, sqesBytes_, MADV_DONTFORK);
}

Ring::~Ring() {
  munmap(sqes_, sqesBytes_);
  munmap(rings_, ringsBytes_);
  close(fd_);
}

io_uring_sqe* Ring::next() {
  const unsigned place = (*sqTail_ + filled_) & sqMask_;
  sqArray_[place] = place;
  filled_++;
  std::memset(&sqes_[place], 0, sizeof(io_uring_sqe));
  return &sqes_[place];
}

int Ring::enter(unsigned waitFor) {
  __atomic_store_n(sqTail_, *sqTail_ + filled_, __ATOMIC_RELEASE);
  filled_ = 0;
  while (true) {
    const unsigned submit = *sqTail_ - __atomic_load_n(sqHead_, __ATOMIC_ACQUIRE);
    if (submit == 0 && waitFor == 0 && !needsGetEvents_) return 0;
    const unsigned flags = waitFor > 0 || needsGetEvents_ ? IORING_ENTER_GETEVENTS : 0;
    const long entered = syscall(__NR_io_uring_enter, fd_, submit, waitFor, flags, nullptr, _NSIG / 8);
    if (entered < 0) {
      if (errno == EINTR) continue;
      return -errno;
    }
    // Fewer than asked: the kernel stopped at one that ended at once with an error; the rest goes with the next call.
    if (static_cast<unsigned>(entered) >= submit) return 0;
    if (entered == 0) return -EAGAIN;
  }
}

bool Ring::makeBufferTable(unsigned slots) {
  io_uring_rsrc_register table;
  std::memset(&table, 0, sizeof(table));
  table.nr = slots;
  table.flags = IORING_RSRC_REGISTER_SPARSE;
  return registerWith(fd_, IORING_REGISTER_BUFFERS2, &table, sizeof(table)) == 0;
}

int Ring::setBuffer(unsigned slot, void* memory, size_t bytes) {
  struct {
    void* base;
    uint64_t length;
  } part{memory, bytes};
  if (bytes == 0) part.base = nullptr;
  io_uring_rsrc_update2 update;
  std::memset(&update, 0, sizeof(update));
  update.offset = slot;
  update.data = reinterpret_cast<uint64_t>(&part);
  update.nr = 1;
  const long result = syscall(__NR_io_uring_register, fd_, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update));
  return result < 0 ? -errno : result == 1 ? 0 : -EIO;
}

}  // namespace kvferry
