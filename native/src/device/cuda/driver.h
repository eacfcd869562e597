// The few calls of the CUDA driver that are used here, looked up in libcuda.so.1 when they are first needed: nothing of CUDA is linked, and neither its headers nor its
// libraries are needed to build.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace kvferry::cuda {

using Result = int;        // CUresult
using Ordinal = int;       // CUdevice
using Address = uint64_t;  // CUdeviceptr
using Context = struct ContextOfDriver*;
using Stream = struct StreamOfDriver*;
using Event = struct EventOfDriver*;

/** CUuuid. */
struct UuidBytes {
  char bytes[16];
};

/** CUipcMemHandle. */
struct IpcHandle {
  char bytes[64];
};

/** CUDA_MEMCPY2D_v2. */
struct Copy2D {
  size_t fromX, fromY;
  int fromType;
  const void* fromHost;
  Address fromDevice;
  void* fromArray;
  size_t fromPitch;
  size_t toX, toY;
  int toType;
  void* toHost;
  Address toDevice;
  void* toArray;
  size_t toPitch;
  size_t width, height;
};
static_assert(sizeof(Copy2D) == 128);

/** CUmemLocation: a hint that is ignored for page-locked and device memory. */
struct Location {
  int type, id;
};

/** CUmemcpyAttributes_v1. */
struct BatchAttributes {
  int sourceOrder;
  Location fromHint, toHint;
  unsigned flags;
};
static_assert(sizeof(BatchAttributes) == 24);

constexpr Result kSuccess = 0;
constexpr Result kOutOfMemory = 2;
constexpr Result kInvalidContext = 201;
constexpr Result kNotSupported = 801;
constexpr int kMemoryHost = 1;
constexpr int kMemoryDevice = 2;
constexpr unsigned kSchedBlockingSync = 4;
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventBlockingSync = 1;
constexpr unsigned kEventDisableTiming = 2;
constexpr unsigned kHostRegisterPortable = 1;
constexpr unsigned kIpcLazyPeerAccess = 1;
constexpr int kSourceOrderStream = 1;
constexpr unsigned kPreferOverlapWithCompute = 1;
constexpr int kAttributeMaxPitch = 11;
constexpr int kAttributeHostPointerOfRegisteredMemory = 91;
constexpr int kAttributeHostNumaId = 134;

// Names carry their version, because a version is what fixes the signature: CUDA's header renames cuMemFree to cuMemFree_v2 and so on, dlsym does not.
#define KVFERRY_CUDA_CALLS(X)                                                                     \
  X(init, cuInit, Result(unsigned))                                                               \
  X(driverGetVersion, cuDriverGetVersion, Result(int*))                                           \
  X(deviceGetCount, cuDeviceGetCount, Result(int*))                                               \
  X(deviceGet, cuDeviceGet, Result(Ordinal*, int))                                                \
  X(deviceGetName, cuDeviceGetName, Result(char*, int, Ordinal))                                  \
  X(deviceGetUuid, cuDeviceGetUuid_v2, Result(UuidBytes*, Ordinal))                               \
  X(deviceTotalMem, cuDeviceTotalMem_v2, Result(size_t*, Ordinal))                                \
  X(deviceGetPciBusId, cuDeviceGetPCIBusId, Result(char*, int, Ordinal))                          \
  X(deviceGetAttribute, cuDeviceGetAttribute, Result(int*, int, Ordinal))                         \
  X(primaryCtxSetFlags, cuDevicePrimaryCtxSetFlags_v2, Result(Ordinal, unsigned))                 \
  X(primaryCtxRetain, cuDevicePrimaryCtxRetain, Result(Context*, Ordinal))                        \
  X(primaryCtxRelease, cuDevicePrimaryCtxRelease_v2, Result(Ordinal))                             \
  X(ctxPushCurrent, cuCtxPushCurrent_v2, Result(Context))                                         \
  X(ctxPopCurrent, cuCtxPopCurrent_v2, Result(Context*))                                          \
  X(ctxGetStreamPriorityRange, cuCtxGetStreamPriorityRange, Result(int*, int*))                   \
  X(streamCreateWithPriority, cuStreamCreateWithPriority, Result(Stream*, unsigned, int))         \
  X(streamSynchronize, cuStreamSynchronize, Result(Stream))                                       \
  X(streamDestroy, cuStreamDestroy_v2, Result(Stream))                                            \
  X(eventCreate, cuEventCreate, Result(Event*, unsigned))                                         \
  X(eventRecord, cuEventRecord, Result(Event, Stream))                                            \
  X(eventSynchronize, cuEventSynchronize, Result(Event))                                          \
  X(eventDestroy, cuEventDestroy_v2, Result(Event))                                               \
  X(memAlloc, cuMemAlloc_v2, Result(Address*, size_t))                                            \
  X(memFree, cuMemFree_v2, Result(Address))                                                       \
  X(memGetAddressRange, cuMemGetAddressRange_v2, Result(Address*, size_t*, Address))              \
  X(memHostRegister, cuMemHostRegister_v2, Result(void*, size_t, unsigned))                       \
  X(memHostUnregister, cuMemHostUnregister, Result(void*))                                        \
  X(ipcGetMemHandle, cuIpcGetMemHandle, Result(IpcHandle*, Address))                              \
  X(ipcOpenMemHandle, cuIpcOpenMemHandle_v2, Result(Address*, IpcHandle, unsigned))               \
  X(ipcCloseMemHandle, cuIpcCloseMemHandle, Result(Address))                                      \
  X(memcpyHtoD, cuMemcpyHtoD_v2, Result(Address, const void*, size_t))                            \
  X(memcpyDtoH, cuMemcpyDtoH_v2, Result(void*, Address, size_t))                                  \
  X(memcpyHtoDAsync, cuMemcpyHtoDAsync_v2, Result(Address, const void*, size_t, Stream))          \
  X(memcpyDtoHAsync, cuMemcpyDtoHAsync_v2, Result(void*, Address, size_t, Stream))                \
  X(memcpy2DAsync, cuMemcpy2DAsync_v2, Result(const Copy2D*, Stream))                             \
  X(getErrorName, cuGetErrorName, Result(Result, const char**))                                   \
  X(getErrorString, cuGetErrorString, Result(Result, const char**))

struct Driver {
#define KVFERRY_CUDA_MEMBER(member, symbol, signature) \
  using symbol##Call = signature;                      \
  symbol##Call* member = nullptr;
  KVFERRY_CUDA_CALLS(KVFERRY_CUDA_MEMBER)
#undef KVFERRY_CUDA_MEMBER

  // One of the two at most is called; drivers before 12.8 have neither. CUDA 13's has no place for the index of the copy that failed.
  using BatchCall = Result(Address* to, Address* from, size_t* bytes, size_t count, BatchAttributes*, size_t* indexes,
                           size_t attributes, Stream);
  using BatchCallWithIndex = Result(Address* to, Address* from, size_t* bytes, size_t count, BatchAttributes*,
                                    size_t* indexes, size_t attributes, size_t* failed, Stream);
  BatchCall* memcpyBatchAsync2 = nullptr;
  BatchCallWithIndex* memcpyBatchAsync1 = nullptr;

  /** 12080 is 12.8. */
  int version = 0;

  bool hasBatch() const { return memcpyBatchAsync2 != nullptr || memcpyBatchAsync1 != nullptr; }

  /** "CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal …" */
  std::string textOf(Result result) const;
};

/** The driver, initialised. Loaded once a process and never unloaded; where that failed it is tried again at the next call. Throws Error UNSUPPORTED "no CUDA: …". */
const Driver& driver();

/** "12.8" */
std::string versionText(int version);

}  // namespace kvferry::cuda
