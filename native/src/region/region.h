// Rows of shared memory: a mapping, the descriptor behind it, and whether it is still all there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "region/populate.h"
#include "region/registry.h"

namespace kvferry {

struct RegionShape {
  uint64_t rows = 0;
  uint64_t rowBytes = 0;
  /** Of row 0 in the file; a multiple of 4096. */
  uint64_t offset = 0;
};

/** A shared mapping. Batches hold it by shared_ptr, so that it is unmapped only after the last of their I/O. */
class Region {
 public:
  /** A new memfd. `tryHugePages`: of huge pages where the machine has them, and made present in the background. Throws Error. */
  static std::shared_ptr<Region> create(const RegionShape& shape, bool tryHugePages = false);
  /** A file by its path. Throws Error INVALID_ARGUMENT if it is shorter than the shape. */
  static std::shared_ptr<Region> mapPath(const std::string& path, const RegionShape& shape);
  /** A file by a descriptor, which belongs to the region from now on, even when this throws. */
  static std::shared_ptr<Region> mapFd(int fd, const RegionShape& shape);

  /** From now on `wake` is called, on any thread, whenever a region has ended: weak pointers to it are empty by then. It must
   * neither block nor use regions. Returns a number for `unwatch`, after which it is not called any more. */
  static uint64_t watch(std::function<void()> wake);
  static void unwatch(uint64_t watcher);

  /** The region whose rows contain [address, address + bytes), or nullptr. */
  static std::shared_ptr<Region> find(const void* address, size_t bytes);

  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  /** Of no other region of this process, now or later. */
  uint64_t id() const { return id_; }
  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  uint64_t rowBytes() const { return rowBytes_; }
  int fd() const { return fd_; }
  /** Bytes made present in the background so far. */
  size_t populatedBytes() const { return populator_ ? populator_->doneBytes() : 0; }
  bool gone() const { return entry_->gone.load(std::memory_order_acquire); }
  /** Looks at the file's size too: an I/O call meets missing pages without a SIGBUS. */
  bool checkGone();
  void markGone() { entry_->gone.store(true, std::memory_order_release); }

 private:
  Region(int fd, const RegionShape& shape);
  static std::shared_ptr<Region> createOn(unsigned memfdFlags, uint64_t pageBytes, const RegionShape& shape);
  void map(uint64_t offset);

  const uint64_t id_;
  const uint64_t rowBytes_;
  int fd_;
  uint64_t fileBytes_ = 0;  // that the mapping needs
  uint8_t* mapping_ = nullptr;
  size_t mappingBytes_ = 0;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  RegistryEntry* entry_ = nullptr;
  std::unique_ptr<Populator> populator_;
};

}  // namespace kvferry
