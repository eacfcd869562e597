#include <algorithm>
#include <cerrno>

#include "engine/work.h"

namespace kvferry {
namespace {

/** A file that says EAGAIN or EINTR again and again is given up on. */
constexpr uint32_t kTriesMax = 1000;

int64_t moveStep(const Transfer& transfer) {
  const int64_t moved = transfer.writing
                            ? pwritev(transfer.file, transfer.step, transfer.stepCount, transfer.offset)
                            : preadv(transfer.file, transfer.step, transfer.stepCount, transfer.offset);
  return moved < 0 ? -errno : moved;
}

}  // namespace

void Transfer::start(bool write, int64_t at) {
  writing = write;
  offset = at;
  count = 0;
  region = nullptr;
  moved_ = 0;
  error_ = 0;
  tries_ = 0;
}

void Transfer::add(void* memory, size_t bytes) {
  if (count > 0) {
    iovec& last = parts[count - 1];
    if (static_cast<uint8_t*>(last.iov_base) + last.iov_len == memory) {
      last.iov_len += bytes;
      return;
    }
  }
  parts[count++] = {memory, bytes};
}

size_t Transfer::bytes() const {
  size_t sum = 0;
  for (int i = 0; i < count; i++) sum += parts[i].iov_len;
  return sum;
}

int64_t Transfer::prepareStep() {
  size_t left = SIZE_MAX;
  if (faults != nullptr && *faults) {
    const int64_t allowed = (*faults)(writing, offset, bytes());
    if (allowed < 0) return allowed;
    left = static_cast<size_t>(allowed);
  }
  stepCount = 0;
  for (int i = 0; i < count && left > 0; i++) {
    step[stepCount] = {parts[i].iov_base, std::min(left, parts[i].iov_len)};
    left -= step[stepCount++].iov_len;
  }
  return 0;
}

bool Transfer::stepped(int64_t result) {
  if ((result == -EINTR || result == -EAGAIN) && ++tries_ < kTriesMax) return true;
  if (result == -EINVAL && file != bufferedFile) {
    file = bufferedFile;
    return true;
  }
  if (result <= 0) {
    error_ = result < 0 ? result : writing ? -EIO : 0;
    return false;
  }
  moved_ += result;
  offset += result;
  auto gone = static_cast<size_t>(result);
  int first = 0;
  while (first < count && gone >= parts[first].iov_len) gone -= parts[first++].iov_len;
  for (int i = first; i < count; i++) parts[i - first] = parts[i];
  count -= first;
  if (count == 0) return false;
  parts[0].iov_base = static_cast<uint8_t*>(parts[0].iov_base) + gone;
  parts[0].iov_len -= gone;
  // O_DIRECT cannot go on at an odd place.
  if (result % static_cast<int64_t>(kPageBytes) != 0) file = bufferedFile;
  return true;
}

int64_t moveBlocking(Transfer& transfer) noexcept {
  int64_t result;
  do {
    result = transfer.prepareStep();
    if (result == 0) result = moveStep(transfer);
  } while (transfer.stepped(result));
  return transfer.result();
}

void runBlocking(IoOperation& operation, uint32_t unit, Transfer& transfer) noexcept {
  transfer.stage = 0;
  transfer.cursor = 0;
  while (operation.begin(unit, transfer)) {
    operation.meanwhile(unit, transfer);
    moveBlocking(transfer);
    operation.complete(unit, transfer);
  }
}

}  // namespace kvferry
