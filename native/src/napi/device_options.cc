#include "napi/device_options.h"

#include <cmath>
#include <cstring>

#include "device/cuda/cuda_device.h"
#include "device/host_region.h"
#include "device/process_memory.h"
#include "napi/blocks.h"

namespace kvferry::binding {
namespace {

constexpr uint32_t kMemoriesMax = 16'384;

/** An element of a list, and what it is called in errors. */
struct Element {
  Napi::Value value;
  std::string name;

  Napi::Object object() const {
    if (!value.IsObject()) throw Error::ofField(name, "must be an object");
    return value.As<Napi::Object>();
  }
  uint64_t number(const char* field, uint64_t max) const {
    const Napi::Value given = object().Get(field);
    try {
      return wholeNumber(given, field, max);
    } catch (const Error& error) {
      throw Error(error.code, name + "." + error.what(), 0, {}, name + "." + field);
    }
  }
  template <size_t Count>
  void bytes(const char* field, std::array<uint8_t, Count>& to) const {
    const std::string full = name + "." + field;
    const Bytes from = bytesOf(object().Get(field), full.c_str());
    if (from.length != Count) throw Error::ofField(full, "must have " + std::to_string(Count) + " bytes");
    std::memcpy(to.data(), from.data, Count);
  }
};

/** Calls `each` for the elements of a list. */
template <typename Each>
void eachOf(Napi::Value list, const std::string& name, uint32_t countMax, Each each) {
  if (!list.IsArray()) throw Error::ofField(name, "must be a list");
  const auto array = list.As<Napi::Array>();
  const uint32_t count = array.Length();
  if (count > countMax) throw Error::ofField(name, "must have " + std::to_string(countMax) + " elements at most");
  for (uint32_t i = 0; i < count; i++) {
    const Napi::HandleScope scope(list.Env());
    each(Element{array.Get(i), name + "[" + std::to_string(i) + "]"});
  }
}

LayoutShape layoutOf(Napi::Value value) {
  const Element layout{value, "layout"};
  LayoutShape shape;
  shape.blocksPerChunk = static_cast<uint32_t>(layout.number("blocksPerChunk", kBlocksPerChunkMax));
  eachOf(layout.object().Get("tensors"), "layout.tensors", kTensorsMax, [&](const Element& tensor) {
    shape.tensors.push_back({static_cast<uint32_t>(tensor.number("memory", kMemoriesMax)),
                             tensor.number("offset", kWholeMax), tensor.number("strideBytes", kWholeMax),
                             tensor.number("pageBytes", kWholeMax), tensor.number("pages", UINT32_MAX)});
  });
  uint32_t uses = 0;
  eachOf(layout.object().Get("groups"), "layout.groups", kGroupsMax, [&](const Element& group) {
    std::vector<GroupTensor>& tensors = shape.groups.emplace_back();
    eachOf(group.value, group.name, kGroupTensorsMax - uses, [&](const Element& use) {
      tensors.push_back({static_cast<uint32_t>(use.number("tensor", kTensorsMax)), use.number("bytes", kWholeMax)});
      uses++;
    });
  });
  return shape;
}

/** Of a memory that begins at `start`. */
uint64_t memoryBytesOf(const Element& memory, uint64_t start) {
  const uint64_t bytes = memory.number("bytes", kWholeMax);
  if (bytes == 0 || bytes > kWholeMax - start) {
    throw Error::ofField(memory.name + ".bytes", "must be positive, and the memory end below 2^53");
  }
  return bytes;
}

/** What the functions below answer: the bytes of each memory. */
using MemoryBytes = std::vector<uint64_t>;

template <typename Each>
void eachMemory(const Element& memory, Each each) {
  eachOf(memory.object().Get("memories"), "memory.memories", kMemoriesMax, each);
}

MemoryBytes ofProcess(const Element& memory, DeviceOptions& options) {
  const auto pid = static_cast<pid_t>(memory.number("pid", INT32_MAX));
  if (pid == 0) {
    throw Error(Code::Permission,
                "memory.pid is 0: the process is not visible from here, as in containers that share no process namespace; share it "
                "(docker: --pid, Kubernetes: shareProcessNamespace), or use tier mode",
                0, {}, "memory.pid");
  }
  MemoryBytes bytes;
  std::vector<ProcessMemory> memories;
  eachMemory(memory, [&](const Element& each) {
    const uint64_t address = each.number("address", kWholeMax);
    bytes.push_back(memoryBytesOf(each, address));
    memories.push_back({address, bytes.back()});
  });
  options.open = [pid, memories = std::move(memories)] { return std::make_unique<ProcessDevice>(pid, memories); };
  return bytes;
}

MemoryBytes ofRegions(const Element& memory, DeviceOptions& options) {
  MemoryBytes bytes;
  std::vector<std::shared_ptr<Region>> memories;
  eachMemory(memory, [&](const Element& each) {
    memories.push_back(regionOf(each.value, each.name));
    bytes.push_back(memories.back()->bytes());
  });
  options.open = [memories = std::move(memories)] { return std::make_unique<HostRegionDevice>(memories); };
  return bytes;
}

MemoryBytes ofCuda(const Element& memory, DeviceOptions& options) {
  MemoryBytes bytes;
  CudaMemories cuda;
  memory.bytes("uuid", cuda.uuid);
  eachMemory(memory, [&](const Element& each) {
    CudaMemory& added = cuda.memories.emplace_back();
    each.bytes("handle", added.handle);
    added.offset = each.number("offset", kWholeMax);
    added.bytes = memoryBytesOf(each, added.offset);
    bytes.push_back(added.bytes);
  });
  options.open = [cuda = std::move(cuda)] { return openCudaDevice(cuda); };
  return bytes;
}

MemoryBytes memoryOf(Napi::Value value, DeviceOptions& options) {
  const Element memory{value, "memory"};
  switch (choice(memory.object().Get("kind"), "memory.kind", {"process", "region", "cuda"})) {
    case 0:
      return ofProcess(memory, options);
    case 1:
      return ofRegions(memory, options);
    default:
      return ofCuda(memory, options);
  }
}

}  // namespace

DeviceOptions deviceOptionsOf(Napi::Object given) {
  DeviceOptions options;
  const MemoryBytes bytes = memoryOf(given.Get("memory"), options);
  options.layout.emplace(layoutOf(given.Get("layout")), bytes);
  const Napi::Value regions = given.Get("hostRegions");
  if (regions.IsUndefined()) return options;
  eachOf(regions, "hostRegions", kMemoriesMax, [&](const Element& region) {
    options.hostRegions.push_back(regionOf(region.value, region.name));
  });
  return options;
}

const double* hostOffsetsOf(Napi::Value value, uint32_t count, uint64_t partBytes, uint64_t hostBytes) {
  napi_typedarray_type type = napi_uint8_array;
  size_t length = 0;
  void* data = nullptr;
  const bool is = value.IsTypedArray() && napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr,
                                                                   nullptr) == napi_ok;
  if (!is || type != napi_float64_array || length != count) {
    throw Error::ofField("hostOffsets", "must be a Float64Array with one element a chunk");
  }
  const auto* const offsets = static_cast<const double*>(data);
  const double most = partBytes <= hostBytes ? static_cast<double>(hostBytes - partBytes) : -1;
  for (uint32_t i = 0; i < count; i++) {
    if (offsets[i] >= 0 && offsets[i] <= most && offsets[i] == std::floor(offsets[i])) continue;
    throw Error::ofField("hostOffsets", "[" + std::to_string(i) + "] is not a place where " + std::to_string(partBytes) +
                                            " bytes lie in the host memory");
  }
  return offsets;
}

const uint32_t* blocksOf(Napi::Value value, const DeviceLayout& layout, const uint32_t* groups, uint32_t count) {
  const uint64_t all = uint64_t{count} * layout.blocksPerChunk();
  if (all > UINT32_MAX) throw Error::ofField("blocks", "has too many elements for one batch");
  const uint32_t* const blocks = numbersOf(value, "blocks", static_cast<uint32_t>(all));
  for (uint32_t i = 0; i < count; i++) {
    if (groups[i] >= layout.groups()) {
      throw Error::ofField("groups", "[" + std::to_string(i) + "] must be below " + std::to_string(layout.groups()));
    }
    const uint64_t pages = layout.pagesOf(groups[i]);
    const uint32_t* const chunk = blocks + size_t{i} * layout.blocksPerChunk();
    for (uint32_t page = 0; page < layout.blocksPerChunk(); page++) {
      if (chunk[page] < pages || chunk[page] == kNoBlock) continue;
      throw Error::ofField("blocks", "of chunk " + std::to_string(i) + " has page " + std::to_string(chunk[page]) +
                                         ", and group " + std::to_string(groups[i]) + " has " + std::to_string(pages));
    }
  }
  return blocks;
}

}  // namespace kvferry::binding
