// What results of the driver mean.
#pragma once

#include "common/codes.h"
#include "device/cuda/driver.h"

namespace kvferry::cuda {

/** The process's context of that GPU is broken: every later call fails, and by NVIDIA's documentation only a new process can use the GPU again. */
bool isSticky(Result result);

/** Of a call on the way of a copy: NO_SPACE, DEVICE_LOST (sticky, or the GPU is gone) or DEVICE_FAILED. */
Code codeOfCopy(Result result);

/** Of a call while something is opened, where the GPU may be another's for a while: NO_SPACE, DEVICE_LOST (sticky) or DEVICE_FAILED. */
Code codeOfOpening(Result result);

}  // namespace kvferry::cuda
