// Loading one block: read payload and footer at once, hand out only what verifies.
#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <new>

#include "checksum/crc32c.h"
#include "common/aligned.h"
#include "storage/file_store.h"

namespace kvferry {

BlockOutcome FileStore::load(const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state) {
  const BlockOutcome outcome = loadOnce(key, payload, region, state);
  // Another host of a network file system has removed or replaced the file since it was opened: what the name says now counts.
  return outcome == failed(Code::Stale) ? loadOnce(key, payload, region, state) : outcome;
}

BlockOutcome FileStore::loadOnce(const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state) {
  if (region != nullptr && region->gone()) return failed(Code::RegionGone);
  const BlockPath path(options_.layout, key, options_.facts.keyBytes);
  // Non-blocking for whatever is no regular file; it changes nothing for those that are.
  const int file = io_.openAt(blocks_.fd(), path.file, O_RDONLY | O_NONBLOCK | (direct_ ? O_DIRECT : 0), 0);
  if (file == -ENOENT || file == -ENOTDIR) return {Outcome::Miss, Code::None};
  if (file < 0) return failed(codeOfErrno(-file));
  BlockOutcome outcome = readBlock(file, key, payload, region, state);
  // The bytes went through memory that others can write to, or take away: before a file is condemned, it is read again
  // into memory of our own.
  if (outcome.outcome == Outcome::Corrupt) outcome = secondOpinion(file, key, payload, state);
  if (region != nullptr && region->gone()) {
    outcome = failed(Code::RegionGone);
  } else if (outcome.outcome == Outcome::Corrupt) {
    quarantine(file, path, key);
  } else if (outcome.outcome == Outcome::Loaded) {
    counters_.bytesLoaded.fetch_add(options_.facts.blockBytes, std::memory_order_relaxed);
  }
  io_.closeFile(file);
  return outcome;
}

BlockOutcome FileStore::readBlock(int file, const uint8_t* key, uint8_t* payload, Region* region, ThreadState& state) {
  const size_t blockBytes = options_.facts.blockBytes;
  const size_t padding = paddedBytes_ - blockBytes;
  iovec parts[3];
  int count = 0;
  const uint8_t* footer;
  uint8_t* target = payload;
  if (direct_ && (padding != 0 || !isPageAligned(payload))) {
    target = state.bounce.reserve(fileBytes_);
    footer = target + paddedBytes_;
    parts[count++] = {target, fileBytes_};
  } else {
    uint8_t* const rest = state.footer.reserve(kPageBytes + kFooterBytes);
    footer = rest + kPageBytes;
    parts[count++] = {payload, blockBytes};
    if (padding != 0) parts[count++] = {rest, padding};
    parts[count++] = {rest + kPageBytes, kFooterBytes};
  }
  const int64_t bytes = transfer(io_, false, file, parts, count, 0, direct_);
  if (bytes == -EFAULT && region != nullptr) {
    region->markGone();
    return failed(Code::RegionGone);
  }
  if (bytes < 0) return failed(codeOfErrno(static_cast<int>(-bytes)));
  const BlockOutcome outcome = judge(file, bytes, key, target, footer);
  if (outcome.outcome == Outcome::Loaded && target != payload) std::memcpy(payload, target, blockBytes);
  return outcome;
}

BlockOutcome FileStore::judge(int file, int64_t bytes, const uint8_t* key, const uint8_t* payload,
                              const uint8_t* footer) {
  const uint64_t blockBytes = options_.facts.blockBytes;
  if (static_cast<uint64_t>(bytes) == fileBytes_) {
    const BlockOutcome outcome = judgeFooter(footer, options_.facts, key);
    if (outcome.outcome != Outcome::Loaded) return outcome;
    if (payloadChecksumOf(footer) != crc32c(payload, blockBytes)) return {Outcome::Corrupt, Code::Corrupt};
    return outcome;
  }
  if (static_cast<uint64_t>(bytes) != blockBytes) return {Outcome::Corrupt, Code::Corrupt};
  // The file ended here, if it is what it was: one that grew while it was read is not without footer.
  struct stat status;
  if (const int error = io_.statFile(file, status); error < 0) return failed(codeOfErrno(-error));
  if (static_cast<uint64_t>(status.st_size) != blockBytes) return {Outcome::Corrupt, Code::Corrupt};
  if (!options_.adopt) return {Outcome::Miss, Code::None};
  counters_.adopted.fetch_add(1, std::memory_order_relaxed);
  return {Outcome::Loaded, Code::None};
}

BlockOutcome FileStore::secondOpinion(int file, const uint8_t* key, uint8_t* payload, ThreadState& state) {
  uint8_t* const bounce = state.bounce.reserve(fileBytes_);
  iovec whole{bounce, fileBytes_};
  const int64_t bytes = transfer(io_, false, file, &whole, 1, 0, direct_);
  if (bytes < 0) return failed(codeOfErrno(static_cast<int>(-bytes)));
  const BlockOutcome outcome = judge(file, bytes, key, bounce, bounce + paddedBytes_);
  if (outcome.outcome == Outcome::Loaded) std::memcpy(payload, bounce, options_.facts.blockBytes);
  return outcome;
}

}  // namespace kvferry
