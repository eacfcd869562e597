#include "region/populate.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <system_error>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace kvferry {

Populator::Populator(void* mapping, size_t bytes, int fd) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // The new thread takes no signals: they are for Node's own.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this, mapping, bytes, fd] { run(static_cast<uint8_t*>(mapping), bytes, fd); });
  } catch (const std::system_error&) {
    // Without a thread to spare, pages come at their first touch.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Populator::~Populator() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

void Populator::run(uint8_t* mapping, size_t bytes, int fd) {
  pthread_setname_np(pthread_self(), "kvferry-memory");
  bool mapPages = true;
  for (size_t at = 0; at < bytes && !stop_.load(std::memory_order_relaxed); at += kPopulateStepBytes) {
    const size_t step = std::min(kPopulateStepBytes, bytes - at);
    if (mapPages && madvise(mapping + at, step, MADV_POPULATE_WRITE) != 0) {
      if (errno != EINVAL) return;
      mapPages = false;
    }
    // Before Linux 5.14: the pages are made, if not mapped.
    if (!mapPages && posix_fallocate(fd, static_cast<off_t>(at), static_cast<off_t>(step)) != 0) return;
    done_.store(at + step, std::memory_order_relaxed);
  }
}

}  // namespace kvferry
