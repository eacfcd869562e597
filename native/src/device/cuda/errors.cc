#include "device/cuda/errors.h"

namespace kvferry::cuda {
namespace {

bool isGone(Result result) {
  switch (result) {
    case 4:    // CUDA_ERROR_DEINITIALIZED: the driver is shutting down
    case 46:   // CUDA_ERROR_DEVICE_UNAVAILABLE
    case 100:  // CUDA_ERROR_NO_DEVICE: it fell off the bus
    case 101:  // CUDA_ERROR_INVALID_DEVICE
    case 201:  // CUDA_ERROR_INVALID_CONTEXT: ours was reset by someone else in this process
    case 709:  // CUDA_ERROR_CONTEXT_IS_DESTROYED
    case 810:  // CUDA_ERROR_MPS_CLIENT_TERMINATED
    case 911:  // CUDA_ERROR_EXTERNAL_DEVICE
    case 999:  // CUDA_ERROR_UNKNOWN: taken for the worst
      return true;
    default:
      return false;
  }
}

}  // namespace

bool isSticky(Result result) {
  switch (result) {
    case 214:  // CUDA_ERROR_ECC_UNCORRECTABLE
    case 220:  // CUDA_ERROR_NVLINK_UNCORRECTABLE
    case 226:  // CUDA_ERROR_CONTAINED
    case 700:  // CUDA_ERROR_ILLEGAL_ADDRESS
    case 702:  // CUDA_ERROR_LAUNCH_TIMEOUT
    case 710:  // CUDA_ERROR_ASSERT
    case 714:  // CUDA_ERROR_HARDWARE_STACK_ERROR
    case 715:  // CUDA_ERROR_ILLEGAL_INSTRUCTION
    case 716:  // CUDA_ERROR_MISALIGNED_ADDRESS
    case 717:  // CUDA_ERROR_INVALID_ADDRESS_SPACE
    case 718:  // CUDA_ERROR_INVALID_PC
    case 719:  // CUDA_ERROR_LAUNCH_FAILED
    case 721:  // CUDA_ERROR_TENSOR_MEMORY_LEAK
      return true;
    default:
      return false;
  }
}

Code codeOfCopy(Result result) { return isGone(result) ? Code::DeviceLost : codeOfOpening(result); }

Code codeOfOpening(Result result) {
  if (result == kOutOfMemory) return Code::NoSpace;
  return isSticky(result) ? Code::DeviceLost : Code::DeviceFailed;
}

}  // namespace kvferry::cuda
