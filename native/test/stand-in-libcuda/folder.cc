// The folder that stands for the devices: a file for each allocation, and one for each mapping of another process.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "stand_in.h"

namespace stand_in {
namespace {

/** "m-<ordinal>-<pid>-<start>-<number>-<bytes>", and with "x-<pid>-<start>-" before it for a mapping. */
bool parseMemory(const std::string& name, int& ordinal, Owner& owner, uint64_t& bytes) {
  unsigned long long start = 0, number = 0, length = 0;
  if (std::sscanf(name.c_str(), "m-%d-%d-%llu-%llu-%llu", &ordinal, &owner.pid, &start, &number, &length) != 5) return false;
  owner.startTime = start;
  bytes = length;
  return true;
}

}  // namespace

std::string folder() { return setting("FOLDER"); }

Owner Owner::self() {
  Owner owner{getpid(), 0};
  std::ifstream file("/proc/self/stat");
  std::stringstream text;
  text << file.rdbuf();
  std::stringstream fields(text.str().substr(text.str().rfind(')') + 2));
  std::string field;
  for (int i = 3; i <= 22 && fields >> field; i++) {
    if (i == 22) owner.startTime = std::strtoull(field.c_str(), nullptr, 10);
  }
  return owner;
}

bool Owner::alive() const {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::stringstream text;
  text << file.rdbuf();
  const size_t end = text.str().rfind(')');
  if (end == std::string::npos) return false;
  std::stringstream fields(text.str().substr(end + 2));
  std::string field;
  for (int i = 3; i <= 22 && fields >> field; i++) {
    if (i == 3 && (field == "Z" || field == "X")) return false;
    if (i == 22) return std::strtoull(field.c_str(), nullptr, 10) == startTime;
  }
  return false;
}

std::string memoryName(int ordinal, const Owner& owner, uint64_t number, uint64_t bytes) {
  std::ostringstream name;
  name << "m-" << ordinal << "-" << owner.pid << "-" << owner.startTime << "-" << number << "-" << bytes;
  return name.str();
}

std::string mappingName(const std::string& memory) {
  const Owner self = Owner::self();
  return "x-" + std::to_string(self.pid) + "-" + std::to_string(self.startTime) + "-" + memory;
}

uint64_t usedBytes(int wanted) {
  std::vector<std::string> memories;
  std::map<std::string, bool> mapped;
  if (DIR* const directory = opendir(folder().c_str())) {
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name.starts_with("m-")) memories.push_back(name);
      if (!name.starts_with("x-")) continue;
      Owner owner;
      unsigned long long start = 0;
      std::sscanf(name.c_str(), "x-%d-%llu-", &owner.pid, &start);
      owner.startTime = start;
      if (owner.alive()) {
        mapped[name.substr(name.find("-m-") + 1)] = true;
      } else {
        unlink((folder() + "/" + name).c_str());
      }
    }
    closedir(directory);
  }
  uint64_t sum = 0;
  for (const std::string& name : memories) {
    int ordinal = 0;
    Owner owner;
    uint64_t bytes = 0;
    if (!parseMemory(name, ordinal, owner, bytes)) continue;
    if (!mapped.contains(name) && !owner.alive()) {
      unlink((folder() + "/" + name).c_str());
    } else if (wanted < 0 || ordinal == wanted) {
      sum += bytes;
    }
  }
  return sum;
}

FolderLock::FolderLock() : fd(open((folder() + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) { flock(fd, LOCK_EX); }
FolderLock::~FolderLock() { close(fd); }

}  // namespace stand_in
