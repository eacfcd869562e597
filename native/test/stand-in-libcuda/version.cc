// What differs between drivers; compiled once for each version.
#include <cstring>

#include "stand_in.h"

#ifndef STAND_IN_CUDA_VERSION
#define STAND_IN_CUDA_VERSION 13000
#endif

using namespace stand_in;

STAND_IN_EXPORT int cuDriverGetVersion(int* version) {
  *version = STAND_IN_CUDA_VERSION;
  return kSuccess;
}

#if STAND_IN_CUDA_VERSION >= 11040
STAND_IN_EXPORT int cuDeviceGetUuid_v2(char* uuid, int device) {
  if (const int result = enter("cuDeviceGetUuid_v2", false)) return result;
  std::memcpy(uuid, "kvferry-stand-i", 15);
  uuid[15] = static_cast<char>(device);
  return kSuccess;
}
#endif

#if STAND_IN_CUDA_VERSION >= 12080
STAND_IN_EXPORT int cuMemcpyBatchAsync(uint64_t* to, uint64_t* from, size_t* bytes, size_t count, void* attributes,
                                       size_t* indexes, size_t attributeCount, size_t* failed, Stream* stream) {
  if (const int result = enter("cuMemcpyBatchAsync", true)) return result;
  // Where a caller passes the arguments of the other version, this is the stream.
  *failed = SIZE_MAX;
  return batch(to, from, bytes, count, attributes, indexes, attributeCount, stream);
}
#endif

#if STAND_IN_CUDA_VERSION >= 13000
STAND_IN_EXPORT int cuMemcpyBatchAsync_v2(uint64_t* to, uint64_t* from, size_t* bytes, size_t count, void* attributes,
                                          size_t* indexes, size_t attributeCount, Stream* stream) {
  if (const int result = enter("cuMemcpyBatchAsync_v2", true)) return result;
  return batch(to, from, bytes, count, attributes, indexes, attributeCount, stream);
}
#endif
