#include "device/cuda/numa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cctype>
#include <fstream>

namespace kvferry::cuda {
namespace {

constexpr int kPreferred = 1;  // MPOL_PREFERRED
constexpr int kNodesMax = 1024;
constexpr int kBitsPerWord = 8 * sizeof(unsigned long);

}  // namespace

int numaNodeOf(const Driver& driver, Ordinal ordinal, const std::string& sysfs) {
  char bus[32] = {};
  if (driver.deviceGetPciBusId(bus, sizeof(bus), ordinal) == kSuccess) {
    std::string name(bus);
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::ifstream file(sysfs + "/" + name + "/numa_node");
    int node = -1;
    if (file >> node) return node;
  }
  // Where sysfs is not to be seen, a driver since 12.2 may know.
  int node = -1;
  return driver.deviceGetAttribute(&node, kAttributeHostNumaId, ordinal) == kSuccess ? node : -1;
}

void preferNode(void* memory, size_t bytes, int node) {
  if (node < 0 || node >= kNodesMax) return;
  unsigned long mask[kNodesMax / kBitsPerWord] = {};
  mask[node / kBitsPerWord] |= 1UL << (node % kBitsPerWord);
  syscall(SYS_mbind, memory, bytes, kPreferred, mask, kNodesMax + 1, 0U);
}

}  // namespace kvferry::cuda
