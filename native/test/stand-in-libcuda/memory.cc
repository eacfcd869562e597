// Device memory, memory of other processes, and page-locked host memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <shared_mutex>

#include "stand_in.h"

namespace stand_in {
namespace {

constexpr uint64_t kPage = 4096;

std::shared_mutex mutex;
std::map<uint64_t, std::shared_ptr<Allocation>>& allocations() {
  static auto* const all = new std::map<uint64_t, std::shared_ptr<Allocation>>();
  return *all;
}
std::map<uint64_t, uint64_t>& pinned() {
  static auto* const all = new std::map<uint64_t, uint64_t>();
  return *all;
}

uint64_t rounded(uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

/** Maps a file of the folder: its bytes where the "device" has them, and as many addresses that nobody can touch. */
std::shared_ptr<Allocation> map(int fd, const std::string& file, int ordinal, uint64_t bytes) {
  void* const physical = mmap(nullptr, kPage + rounded(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (physical == MAP_FAILED) return nullptr;
  void* const reserved = mmap(nullptr, rounded(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  auto allocation = std::make_shared<Allocation>();
  allocation->address = reinterpret_cast<uint64_t>(reserved);
  allocation->bytes = bytes;
  allocation->ordinal = ordinal;
  allocation->file = file;
  allocation->freed = static_cast<std::atomic<uint32_t>*>(physical);
  allocation->physical = static_cast<uint8_t*>(physical) + kPage;
  return allocation;
}

/** What is in the 64 bytes of a handle. */
struct Handle {
  char magic[8];
  int32_t ordinal, pid;
  uint64_t startTime, number, bytes;
};
constexpr char kMagic[9] = "standin1";

std::map<uint64_t, Handle>& owned() {
  static auto* const all = new std::map<uint64_t, Handle>();
  return *all;
}

bool openHere(const std::string& file) {
  const std::shared_lock lock(mutex);
  for (const auto& [address, allocation] : allocations()) {
    if (!allocation->record.empty() && allocation->file == file) return true;
  }
  return false;
}

}  // namespace

Allocation::~Allocation() {
  munmap(physical - kPage, kPage + rounded(bytes));
  munmap(reinterpret_cast<void*>(address), rounded(bytes));
}

std::shared_ptr<Allocation> allocationAt(uint64_t address, uint64_t bytes) {
  const std::shared_lock lock(mutex);
  auto found = allocations().upper_bound(address);
  if (found == allocations().begin()) return nullptr;
  const auto& allocation = (--found)->second;
  const uint64_t at = address - allocation->address;
  return at <= allocation->bytes && bytes <= allocation->bytes - at ? allocation : nullptr;
}

HostKind hostKind(const void* memory, uint64_t bytes) {
  const auto begin = reinterpret_cast<uint64_t>(memory);
  const std::shared_lock lock(mutex);
  for (const auto& [at, length] : pinned()) {
    if (begin >= at && begin + bytes <= at + length) return HostKind::Pinned;
    if (begin < at + length && at < begin + bytes) return HostKind::Partly;
  }
  return HostKind::Pageable;
}

void countPinned(uint64_t& ranges, uint64_t& bytes) {
  const std::shared_lock lock(mutex);
  ranges = pinned().size();
  bytes = 0;
  for (const auto& [at, length] : pinned()) bytes += length;
}

}  // namespace stand_in

using namespace stand_in;

STAND_IN_EXPORT int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  if (const int result = enter("cuMemAlloc_v2", true)) return result;
  if (bytes == 0) return kInvalidValue;
  static std::atomic<uint64_t> last{0};
  const int ordinal = currentContext()->ordinal;
  const Owner self = Owner::self();
  const Handle handle{{}, ordinal, self.pid, self.startTime, ++last, bytes};
  const std::string file = memoryName(ordinal, self, handle.number, bytes);
  const FolderLock folderLock;
  if (usedBytes(ordinal) + bytes > numberSetting("MEMORY_BYTES", uint64_t{1} << 30)) return kOutOfMemory;
  const int fd = open((folder() + "/" + file).c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(kPage + rounded(bytes))) != 0) return kOutOfMemory;
  const auto allocation = map(fd, file, ordinal, bytes);
  if (!allocation) return kOutOfMemory;
  *address = allocation->address;
  counters().allocations++;
  const std::unique_lock lock(mutex);
  allocations()[allocation->address] = allocation;
  owned()[allocation->address] = handle;
  return kSuccess;
}

STAND_IN_EXPORT int cuMemFree_v2(uint64_t address) {
  if (const int result = enter("cuMemFree_v2", true)) return result;
  const FolderLock folderLock;
  const std::unique_lock lock(mutex);
  const auto found = allocations().find(address);
  if (found == allocations().end() || !found->second->record.empty()) return kInvalidValue;
  found->second->freed->store(1);
  unlink((folder() + "/" + found->second->file).c_str());
  allocations().erase(found);
  owned().erase(address);
  counters().allocations--;
  return kSuccess;
}

STAND_IN_EXPORT int cuMemGetAddressRange_v2(uint64_t* base, size_t* bytes, uint64_t address) {
  if (const int result = enter("cuMemGetAddressRange_v2", true)) return result;
  const auto allocation = allocationAt(address, 1);
  if (!allocation) return kInvalidValue;
  *base = allocation->address;
  *bytes = allocation->bytes;
  return kSuccess;
}

STAND_IN_EXPORT int cuIpcGetMemHandle(char* bytes, uint64_t address) {
  if (const int result = enter("cuIpcGetMemHandle", true)) return result;
  const std::shared_lock lock(mutex);
  const auto found = owned().find(address);
  if (found == owned().end()) return kInvalidValue;
  Handle handle = found->second;
  std::memcpy(handle.magic, kMagic, sizeof(handle.magic));
  std::memset(bytes, 0, 64);
  std::memcpy(bytes, &handle, sizeof(handle));
  return kSuccess;
}

struct IpcHandleBytes {
  char bytes[64];
};

STAND_IN_EXPORT int cuIpcOpenMemHandle_v2(uint64_t* address, IpcHandleBytes bytes, unsigned) {
  if (const int result = enter("cuIpcOpenMemHandle_v2", true)) return result;
  Handle handle;
  std::memcpy(&handle, bytes.bytes, sizeof(handle));
  if (std::memcmp(handle.magic, kMagic, sizeof(handle.magic)) != 0) return kInvalidValue;
  if (handle.ordinal != currentContext()->ordinal) return kInvalidDevice;
  const Owner owner{handle.pid, handle.startTime};
  if (handle.pid == getpid()) return kInvalidContext;
  const std::string file = memoryName(handle.ordinal, owner, handle.number, handle.bytes);
  const FolderLock folderLock;
  if (openHere(file)) return kAlreadyMapped;
  if (!owner.alive()) return kMapFailed;
  const int fd = open((folder() + "/" + file).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return kInvalidHandle;
  const auto allocation = map(fd, file, handle.ordinal, handle.bytes);
  if (!allocation) return kOutOfMemory;
  allocation->record = mappingName(file);
  close(open((folder() + "/" + allocation->record).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  *address = allocation->address;
  counters().mappings++;
  const std::unique_lock lock(mutex);
  allocations()[allocation->address] = allocation;
  return kSuccess;
}

STAND_IN_EXPORT int cuIpcCloseMemHandle(uint64_t address) {
  if (const int result = enter("cuIpcCloseMemHandle", true)) return result;
  const FolderLock folderLock;
  const std::unique_lock lock(mutex);
  const auto found = allocations().find(address);
  if (found == allocations().end() || found->second->record.empty()) return kInvalidValue;
  unlink((folder() + "/" + found->second->record).c_str());
  allocations().erase(found);
  counters().mappings--;
  return kSuccess;
}

STAND_IN_EXPORT int cuMemHostRegister_v2(void* memory, size_t bytes, unsigned) {
  if (const int result = enter("cuMemHostRegister_v2", true)) return result;
  if (bytes == 0 || hostKind(memory, bytes) != HostKind::Pageable) return bytes == 0 ? kInvalidValue : kAlreadyRegistered;
  const std::unique_lock lock(mutex);
  pinned()[reinterpret_cast<uint64_t>(memory)] = bytes;
  return kSuccess;
}

STAND_IN_EXPORT int cuMemHostUnregister(void* memory) {
  if (const int result = enter("cuMemHostUnregister", true)) return result;
  const std::unique_lock lock(mutex);
  return pinned().erase(reinterpret_cast<uint64_t>(memory)) == 1 ? kSuccess : kNotRegistered;
}
