// What tests ask the stand-in for libcuda.so.1, looked up in it with dlsym.
#pragma once

#include <cstdint>

extern "C" {

struct StandInCounts {
  uint64_t contexts;
  uint64_t streams;
  uint64_t events;
  uint64_t pinnedRanges;
  uint64_t pinnedBytes;
  uint64_t allocations;
  uint64_t mappings;
  /** Of all processes that use the folder; those that have ended keep none but what others have mapped. */
  uint64_t deviceBytes;
  /** Copies given to streams or done by the caller, and calls of cuMemcpyBatchAsync and cuMemcpy2DAsync. */
  uint64_t copies;
  uint64_t batches;
  uint64_t copies2D;
};

/** "kvferryStandInCudaCounts" */
using StandInCountsCall = void(StandInCounts* counts);
/** "kvferryStandInCudaFail": the nth call of that name from now on (0: every one) on that device (-1: any) gives `result`; nullptr takes all back. */
using StandInFailCall = void(const char* call, int nth, int result, int ordinal);
}
