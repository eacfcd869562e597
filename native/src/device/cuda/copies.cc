#include "device/cuda/copies.h"

#include <algorithm>

namespace kvferry::cuda {
namespace {

Code startOne(const CopySides& sides, const ChunkCopy& chunk, const Fragment& fragment) noexcept {
  const Driver& driver = sides.gpu.driver();
  const Address address = sides.memories[fragment.memory] + fragment.at;
  uint8_t* const host = chunk.host + fragment.hostAt;
  if (sides.direction == Direction::Gather) {
    const Result result = driver.memcpyDtoHAsync(host, address, fragment.bytes, sides.lane.stream);
    return result == kSuccess ? Code::None : sides.gpu.copyFailed("cuMemcpyDtoHAsync_v2", result);
  }
  const Result result = driver.memcpyHtoDAsync(address, host, fragment.bytes, sides.lane.stream);
  return result == kSuccess ? Code::None : sides.gpu.copyFailed("cuMemcpyHtoDAsync_v2", result);
}

/** How many fragments from here on lie at equal distances on both sides. */
uint32_t rowsOf(const Fragment* fragments, uint32_t count, size_t pitchMax) {
  if (count < 2) return count;
  const uint64_t pitch = fragments[1].at - fragments[0].at;  // wraps around, to more than pitchMax, where the next lies before
  const uint64_t hostPitch = fragments[1].hostAt - fragments[0].hostAt;
  const uint64_t bytes = fragments[0].bytes;
  if (pitch < bytes || hostPitch < bytes || pitch > pitchMax || hostPitch > pitchMax) return 1;
  uint32_t rows = 1;
  while (rows < count && fragments[rows].memory == fragments[0].memory && fragments[rows].bytes == bytes &&
         fragments[rows].at - fragments[rows - 1].at == pitch &&
         fragments[rows].hostAt - fragments[rows - 1].hostAt == hostPitch) {
    rows++;
  }
  return rows;
}

Code startRows(const CopySides& sides, const ChunkCopy& chunk, const Fragment* fragments, uint32_t rows) noexcept {
  const bool gather = sides.direction == Direction::Gather;
  const Address address = sides.memories[fragments->memory] + fragments->at;
  uint8_t* const host = chunk.host + fragments->hostAt;
  const size_t pitch = fragments[1].at - fragments[0].at;
  const size_t hostPitch = fragments[1].hostAt - fragments[0].hostAt;
  Copy2D copy{};
  copy.fromType = gather ? kMemoryDevice : kMemoryHost;
  copy.toType = gather ? kMemoryHost : kMemoryDevice;
  (gather ? copy.fromDevice : copy.toDevice) = address;
  if (gather) {
    copy.toHost = host;
  } else {
    copy.fromHost = host;
  }
  copy.fromPitch = gather ? pitch : hostPitch;
  copy.toPitch = gather ? hostPitch : pitch;
  copy.width = fragments->bytes;
  copy.height = rows;
  const Result result = sides.gpu.driver().memcpy2DAsync(&copy, sides.lane.stream);
  return result == kSuccess ? Code::None : sides.gpu.copyFailed("cuMemcpy2DAsync_v2", result);
}

Code startSingly(const CopySides& sides, const ChunkCopy& chunk, uint32_t first, uint32_t end) noexcept {
  for (uint32_t at = first; at < end;) {
    const Fragment* const fragments = chunk.fragments + at;
    const uint32_t rows = rowsOf(fragments, end - at, sides.gpu.pitchMax());
    const Code code = rows > 1 ? startRows(sides, chunk, fragments, rows) : startOne(sides, chunk, *fragments);
    if (code != Code::None) return code;
    at += rows;
  }
  return Code::None;
}

/** In one call. Whether some of the copies run when it fails, nobody says; they may be started again. */
Result startBatch(const CopySides& sides, const ChunkCopy& chunk, uint32_t first, uint32_t end) {
  Lane& lane = sides.lane;
  const size_t count = end - first;
  for (auto* const list : {&lane.to, &lane.from}) list->resize(count);
  lane.bytes.resize(count);
  // CUDA's documentation asks for one index an attribute, other readings of it for one a copy: zeros serve both.
  lane.indexes.resize(count);
  for (size_t i = 0; i < count; i++) {
    const Fragment& fragment = chunk.fragments[first + i];
    const Address address = sides.memories[fragment.memory] + fragment.at;
    const auto host = reinterpret_cast<Address>(chunk.host + fragment.hostAt);
    lane.to[i] = sides.direction == Direction::Gather ? host : address;
    lane.from[i] = sides.direction == Direction::Gather ? address : host;
    lane.bytes[i] = fragment.bytes;
  }
  BatchAttributes attributes{};
  attributes.sourceOrder = kSourceOrderStream;
  attributes.flags = kPreferOverlapWithCompute;
  const Driver& driver = sides.gpu.driver();
  if (driver.memcpyBatchAsync2 != nullptr) {
    return driver.memcpyBatchAsync2(lane.to.data(), lane.from.data(), lane.bytes.data(), count, &attributes,
                                    lane.indexes.data(), 1, lane.stream);
  }
  size_t failed = 0;
  return driver.memcpyBatchAsync1(lane.to.data(), lane.from.data(), lane.bytes.data(), count, &attributes,
                                  lane.indexes.data(), 1, &failed, lane.stream);
}

}  // namespace

Code startCopies(const CopySides& sides, const ChunkCopy& chunk, bool pinned) noexcept {
  for (uint32_t first = 0; first < chunk.count; first += kBatchCopiesMax) {
    const uint32_t end = std::min(chunk.count, first + kBatchCopiesMax);
    if (pinned && end - first > 1 && sides.gpu.usesBatches()) {
      try {
        const Result result = startBatch(sides, chunk, first, end);
        if (result == kSuccess) continue;
        if (sides.gpu.copyFailed("cuMemcpyBatchAsync", result) == Code::DeviceLost) return Code::DeviceLost;
        if (result == kNotSupported) sides.gpu.stopBatches();
      } catch (const std::bad_alloc&) {
        // Singly they need no memory.
      }
    }
    if (const Code code = startSingly(sides, chunk, first, end); code != Code::None) return code;
  }
  return Code::None;
}

}  // namespace kvferry::cuda
