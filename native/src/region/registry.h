// Survives other processes truncating the files behind our mappings. A page that is gone raises SIGBUS in whoever touches
// it; the handler here puts an empty page in its place and notes that the region is gone, so that the damage stays with
// the region's owner.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace kvferry {

/** A mapped range that the SIGBUS handler knows. Entries are never freed, only reused, so the handler may read any. */
struct RegistryEntry {
  /** Odd while the entry changes: the handler ignores it then. */
  std::atomic<uint32_t> version{0};
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<uintptr_t> pageBytes{0};
  std::atomic<bool> gone{false};
};

constexpr size_t kRegionsMax = 4096;

/** Makes the range known and installs the handler at the first call. Throws Error BUSY when `kRegionsMax` are mapped. */
RegistryEntry* registerRange(const void* begin, size_t bytes, size_t pageBytes);

/** To be called before the range is unmapped. */
void unregisterRange(RegistryEntry* entry);

}  // namespace kvferry
