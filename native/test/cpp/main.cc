// Runs all tests, or those whose name contains argv[2]; writes the counts to the file argv[1].
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "check.h"

namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
    } else {
      out += c;
    }
  }
  return out + "\"";
}

int runChild(const char* name) {
  for (const check::Test& child : check::children()) {
    if (std::strcmp(child.name, name) != 0) continue;
    try {
      child.body();
      return 0;
    } catch (const std::exception& failure) {
      std::fprintf(stderr, "%s: %s\n", name, failure.what());
      return 1;
    }
  }
  std::fprintf(stderr, "no child is called %s\n", name);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::strcmp(argv[1], "--child") == 0) return runChild(argv[2]);
  int passed = 0;
  int skipped = 0;
  std::vector<std::string> details;
  for (const check::Test& test : check::tests()) {
    if (argc > 2 && std::strstr(test.name, argv[2]) == nullptr) continue;
    const auto start = std::chrono::steady_clock::now();
    const char* word = "ok  ";
    std::string message;
    try {
      test.body();
      passed++;
    } catch (const check::Skipped& reason) {
      word = "skip";
      message = reason.what();
      skipped++;
    } catch (const std::exception& failure) {
      word = "FAIL";
      message = failure.what();
      details.push_back(std::string(test.name) + ": " + message);
    }
    const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - start;
    std::printf("%s %s (%.0f ms) %s\n", word, test.name, ms.count(), message.c_str());
    std::fflush(stdout);
  }
  std::printf("%d passed, %zu failed, %d skipped\n", passed, details.size(), skipped);
  if (argc > 1) {
    std::ofstream report(argv[1]);
    report << "{\"passed\": " << passed << ", \"failed\": " << details.size() << ", \"skipped\": " << skipped
           << ", \"details\": [";
    for (size_t i = 0; i < details.size(); i++) report << (i == 0 ? "" : ", ") << quoted(details[i]);
    report << "]}\n";
  }
  return details.empty() ? 0 : 1;
}
