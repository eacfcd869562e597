#include "region/region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <mutex>
#include <utility>

#include "common/aligned.h"
#include "common/codes.h"

#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 1U
#define MFD_ALLOW_SEALING 2U
#endif
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 4U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef F_ADD_SEALS
#define F_ADD_SEALS 1033
#define F_SEAL_SEAL 1
#define F_SEAL_SHRINK 2
#define F_SEAL_GROW 4
#endif

namespace kvferry {
namespace {

constexpr uint64_t kHugePageBytes = 2 * 1024 * 1024;
constexpr uint64_t kRegionBytesMax = uint64_t{1} << 46;
constexpr long kHugetlbMagic = 0x958458f6;

std::mutex regionsMutex;
/** By the address of row 0. Weak: whoever finds a region here may be too late. */
std::map<uintptr_t, std::pair<Region*, std::weak_ptr<Region>>>& regions() {
  // Never destroyed: threads of a process that is exiting may still look.
  static auto* map = new std::map<uintptr_t, std::pair<Region*, std::weak_ptr<Region>>>();
  return *map;
}

std::atomic<uint64_t> lastId{0};

std::mutex watchersMutex;
std::map<uint64_t, std::function<void()>>& watchers() {
  static auto* map = new std::map<uint64_t, std::function<void()>>();
  return *map;
}

uint64_t checkedBytes(const RegionShape& shape) {
  if (shape.rows == 0 || shape.rowBytes == 0 || shape.rows > kRegionBytesMax / shape.rowBytes ||
      shape.offset > kRegionBytesMax) {
    throw Error(Code::InvalidArgument, "a region needs positive rows and rowBytes, " +
                                           std::to_string(kRegionBytesMax) + " bytes in all at most");
  }
  if (shape.offset % kPageBytes != 0) throw Error(Code::InvalidArgument, "a region's offset must be a multiple of 4096");
  return shape.rows * shape.rowBytes;
}

/** Closes on the way out of a constructor that throws. */
struct FdGuard {
  int fd;
  ~FdGuard() {
    if (fd >= 0) close(fd);
  }
  int release() { return std::exchange(fd, -1); }
};

}  // namespace

std::shared_ptr<Region> Region::create(const RegionShape& shape, bool tryHugePages) {
  checkedBytes(shape);
  if (!tryHugePages) return createOn(0, kPageBytes, shape);
  std::shared_ptr<Region> region;
  try {
    region = createOn(MFD_HUGETLB | MFD_HUGE_2MB, kHugePageBytes, shape);
  } catch (const Error&) {
    // No pages are reserved, or too few. Transparent ones are the system's to give: the advice may be ignored.
    region = createOn(0, kPageBytes, shape);
    madvise(region->mapping_, region->mappingBytes_, MADV_HUGEPAGE);
  }
  region->populator_ = std::make_unique<Populator>(region->mapping_, region->mappingBytes_, region->fd_);
  return region;
}

std::shared_ptr<Region> Region::createOn(unsigned memfdFlags, uint64_t pageBytes, const RegionShape& shape) {
  const uint64_t bytes = (shape.offset + checkedBytes(shape) + pageBytes - 1) / pageBytes * pageBytes;
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | memfdFlags;
  FdGuard guard{static_cast<int>(syscall(SYS_memfd_create, "kvferry-region", flags))};
  if (guard.fd < 0) throw Error::ofErrno(errno, "make a memfd", "");
  if (ftruncate(guard.fd, static_cast<off_t>(bytes)) != 0) throw Error::ofErrno(errno, "size a memfd", "");
  // Nobody it is passed to can make it shorter, so it never raises SIGBUS.
  fcntl(guard.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return mapFd(guard.release(), shape);
}

std::shared_ptr<Region> Region::mapPath(const std::string& path, const RegionShape& shape) {
  checkedBytes(shape);
  // Non-blocking, because the path is a client's word and may name a FIFO.
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) throw Error::ofErrno(errno, "open the region", path);
  return mapFd(fd, shape);
}

std::shared_ptr<Region> Region::mapFd(int fd, const RegionShape& shape) {
  std::shared_ptr<Region> region(new Region(fd, shape));
  const std::lock_guard lock(regionsMutex);
  regions()[reinterpret_cast<uintptr_t>(region->data_)] = {region.get(), region};
  return region;
}

Region::Region(int fd, const RegionShape& shape) : id_(++lastId), rowBytes_(shape.rowBytes), fd_(fd) {
  FdGuard guard{fd};
  bytes_ = checkedBytes(shape);
  fileBytes_ = shape.offset + bytes_;
  struct stat status;
  if (fstat(fd, &status) != 0) throw Error::ofErrno(errno, "stat the region's descriptor", "");
  if (!S_ISREG(status.st_mode)) throw Error(Code::InvalidArgument, "the region's descriptor is not of a regular file");
  if (static_cast<uint64_t>(status.st_size) < fileBytes_) {
    throw Error(Code::InvalidArgument, "the region's file has " + std::to_string(status.st_size) + " bytes, needed are " +
                                           std::to_string(fileBytes_));
  }
  map(shape.offset);
  guard.release();
}

void Region::map(uint64_t offset) {
  struct statfs fileSystem;
  const auto systemPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  size_t pageBytes = systemPage;
  if (fstatfs(fd_, &fileSystem) == 0 && static_cast<long>(fileSystem.f_type) == kHugetlbMagic) {
    pageBytes = static_cast<size_t>(fileSystem.f_bsize);
  }
  const uint64_t start = offset / pageBytes * pageBytes;
  mappingBytes_ = (offset - start + bytes_ + pageBytes - 1) / pageBytes * pageBytes;
  void* mapping = mmap(nullptr, mappingBytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, static_cast<off_t>(start));
  if (mapping == MAP_FAILED) throw Error::ofErrno(errno, "map the region", "");
  mapping_ = static_cast<uint8_t*>(mapping);
  data_ = mapping_ + (offset - start);
  // A child that Node forks has no use for it, and would keep a client's memory alive.
  madvise(mapping, mappingBytes_, MADV_DONTFORK);
  try {
    entry_ = registerRange(mapping_, mappingBytes_, pageBytes);
  } catch (...) {
    munmap(mapping, mappingBytes_);
    throw;
  }
}

Region::~Region() {
  populator_.reset();
  {
    const std::lock_guard lock(regionsMutex);
    const auto found = regions().find(reinterpret_cast<uintptr_t>(data_));
    // The address may be another region's by now only after munmap, which is below.
    if (found != regions().end() && found->second.first == this) regions().erase(found);
  }
  unregisterRange(entry_);
  munmap(mapping_, mappingBytes_);
  close(fd_);
  const std::lock_guard lock(watchersMutex);
  for (const auto& [watcher, wake] : watchers()) wake();
}

uint64_t Region::watch(std::function<void()> wake) {
  static uint64_t last = 0;
  const std::lock_guard lock(watchersMutex);
  watchers().emplace(++last, std::move(wake));
  return last;
}

void Region::unwatch(uint64_t watcher) {
  const std::lock_guard lock(watchersMutex);
  watchers().erase(watcher);
}

std::shared_ptr<Region> Region::find(const void* address, size_t bytes) {
  const auto start = reinterpret_cast<uintptr_t>(address);
  const std::lock_guard lock(regionsMutex);
  auto found = regions().upper_bound(start);
  if (found == regions().begin()) return nullptr;
  --found;
  std::shared_ptr<Region> region = found->second.second.lock();
  if (!region) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(region->data_);
  if (start - begin > region->bytes_ || bytes > region->bytes_ - (start - begin)) return nullptr;
  return region;
}

bool Region::checkGone() {
  if (gone()) return true;
  struct stat status;
  if (fstat(fd_, &status) != 0 || static_cast<uint64_t>(status.st_size) < fileBytes_) markGone();
  return gone();
}

}  // namespace kvferry
