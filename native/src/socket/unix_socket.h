// Unix stream sockets that carry descriptors: the system calls, without an event loop.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "common/codes.h"

namespace kvferry {

/** Descriptors a message may bring; more end the connection. */
constexpr size_t kFdsMax = 16;

/** Closes a descriptor unless it is released. */
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();
  int get() const { return fd_; }
  int release();
  void reset();

 private:
  int fd_ = -1;
};

struct Received {
  /** Bytes; 0 at the end of the stream; -errno. */
  int64_t bytes = 0;
  /** Close-on-exec, at most kFdsMax. */
  std::vector<Fd> fds;
  /** More than kFdsMax came; all were closed. */
  bool tooManyFds = false;
};

/** One recvmsg that does not wait. */
Received receive(int socket, void* buffer, size_t bytes);

/** What waits to be sent. Descriptors are held (duplicated) until they have gone out with their first byte. */
class SendQueue {
 public:
  explicit SendQueue(uint64_t bytesMax) : bytesMax_(bytesMax) {}

  /** Sends now what the kernel takes and keeps the rest. 0 or -errno; -EMSGSIZE (nothing sent) when more than bytesMax
   * would wait. The descriptors stay the caller's. */
  int send(int socket, std::span<const uint8_t> bytes, std::span<const int> fds);
  /** Goes on with what waits. 0 or -errno; EAGAIN is not an error. */
  int flush(int socket);
  uint64_t bytes() const { return bytes_; }

 private:
  struct Message {
    std::vector<uint8_t> bytes;
    size_t sent = 0;
    std::vector<Fd> fds;
  };

  const uint64_t bytesMax_;
  std::deque<Message> messages_;
  uint64_t bytes_ = 0;
};

/** A connected, non-blocking socket. Throws Error UNAVAILABLE when nobody listens there. */
Fd connectUnix(const std::string& path);

/** SO_PEERCRED. Throws Error. */
ucred peerOf(int socket);

/** A socket file that one process at a time listens on: `<path>.lock` is held by flock meanwhile. */
class Listener {
 public:
  /** Throws Error BUSY when another server listens there, live or starting. */
  Listener(const std::string& path, mode_t mode);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int fd() const { return socket_.get(); }
  /** A non-blocking connection, or -errno; -EAGAIN when there is none. */
  int accept();
  /** Stops; removes the files that are still its own. May be called twice. */
  void close();

 private:
  void lock();
  void removeStale();

  const std::string path_;
  Fd lock_;
  Fd socket_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace kvferry
