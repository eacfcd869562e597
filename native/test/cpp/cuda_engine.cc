// The "engine" of the CUDA tests: a process that has device memory and hands out handles of it. It uses the driver by itself, not by the code under test.
#include <dlfcn.h>

#include <cstdio>
#include <iostream>
#include <sstream>

#include "checksum/crc32c.h"
#include "cuda_fixture.h"

namespace kvferry::test {
namespace {

struct Allocation {
  uint64_t address;
  uint64_t bytes;
  void* context;
};

/** Calls of the driver, by their names. */
template <typename... Arguments>
void call(const char* name, Arguments... arguments) {
  static void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  const int result = reinterpret_cast<int (*)(Arguments...)>(dlsym(library, name))(arguments...);
  if (result != 0) throw std::runtime_error(std::string(name) + " gave " + std::to_string(result));
}

std::string allocate(std::istream& words, std::vector<Allocation>& allocations) {
  int ordinal = 0;
  uint64_t seed = 0;
  Allocation made{};
  words >> ordinal >> made.bytes >> seed;
  call("cuDevicePrimaryCtxRetain", &made.context, ordinal);
  call("cuCtxPushCurrent_v2", made.context);
  call("cuMemAlloc_v2", &made.address, size_t{made.bytes});
  std::vector<uint8_t> bytes(made.bytes);
  fillPattern(bytes.data(), bytes.size(), seed);
  call("cuMemcpyHtoD_v2", made.address, static_cast<const void*>(bytes.data()), bytes.size());
  char handle[64];
  call("cuIpcGetMemHandle", &handle[0], made.address);
  allocations.push_back(made);
  std::string hex;
  for (const char byte : handle) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned char>(byte));
    hex += digits;
  }
  return hex;
}

std::string sum(const Allocation& allocation) {
  std::vector<uint8_t> bytes(allocation.bytes);
  call("cuCtxPushCurrent_v2", allocation.context);
  call("cuMemcpyDtoH_v2", static_cast<void*>(bytes.data()), allocation.address, bytes.size());
  return std::to_string(crc32c(bytes.data(), bytes.size()));
}

CHILD(cuda_engine) {
  call("cuInit", 0U);
  std::vector<Allocation> allocations;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string word;
    size_t number = 0;
    words >> word;
    std::string answer;
    if (word == "allocate") {
      answer = allocate(words, allocations);
    } else {
      words >> number;
      if (word == "sum") answer = sum(allocations.at(number));
      if (word == "free") call("cuMemFree_v2", allocations.at(number).address);
    }
    std::cout << answer << std::endl;
  }
}

}  // namespace
}  // namespace kvferry::test
