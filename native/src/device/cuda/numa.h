// Host memory near a GPU.
#pragma once

#include <cstddef>
#include <string>

#include "device/cuda/driver.h"

namespace kvferry::cuda {

/** The NUMA node that a GPU hangs on; -1 where that cannot be told or there is only one. `sysfs`: where PCI devices have their folders. */
int numaNodeOf(const Driver& driver, Ordinal ordinal, const std::string& sysfs = "/sys/bus/pci/devices");

/** Asks for pages of that node when pages of the range are first touched; others come where it has none left. Pages that are there already stay. Does nothing where the
 * system refuses, as containers do. */
void preferNode(void* memory, size_t bytes, int node);

}  // namespace kvferry::cuda
