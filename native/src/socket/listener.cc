#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "socket/unix_socket.h"

namespace kvferry {
namespace {

constexpr int kBacklog = 128;

Error busy(const std::string& path) {
  return Error(Code::Busy, "another server is listening on " + path, EADDRINUSE, path);
}

}  // namespace

Listener::Listener(const std::string& path, mode_t mode) : path_(path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path) || path.find('\0') != std::string::npos) {
    throw Error(Code::InvalidArgument,
                "a socket's path must have 1 to 107 bytes, this one has " + std::to_string(path.size()) + ": " + path, 0,
                path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  lock();
  try {
    removeStale();
    socket_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket_.get() < 0) throw Error::ofErrno(errno, "make a socket", "");
    // Linux makes the socket file with the mode of the socket's own inode: it is never more open than this.
    if (fchmod(socket_.get(), mode) != 0) throw Error::ofErrno(errno, "set the mode of", path);
    if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
      throw errno == EADDRINUSE ? busy(path) : Error::ofErrno(errno, "bind", path);
    }
    struct stat status;
    if (lstat(path.c_str(), &status) != 0) throw Error::ofErrno(errno, "stat", path);
    device_ = status.st_dev;
    inode_ = status.st_ino;
    // The umask may have taken away what was asked for; nothing can have been added.
    if ((status.st_mode & mode) != mode && chmod(path.c_str(), mode) != 0) {
      throw Error::ofErrno(errno, "set the mode of", path);
    }
    if (listen(socket_.get(), kBacklog) != 0) throw Error::ofErrno(errno, "listen on", path);
  } catch (...) {
    close();
    throw;
  }
}

Listener::~Listener() { close(); }

/** Whoever holds the lock of the file that has the name now is the one. */
void Listener::lock() {
  const std::string path = path_ + ".lock";
  while (true) {
    Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) throw Error::ofErrno(errno, "open", path);
    if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
      throw errno == EWOULDBLOCK ? busy(path_) : Error::ofErrno(errno, "lock", path);
    }
    struct stat mine;
    struct stat named;
    if (fstat(file.get(), &mine) != 0) throw Error::ofErrno(errno, "stat", path);
    // A server that has just ended may have removed the file we opened.
    if (stat(path.c_str(), &named) != 0 || mine.st_ino != named.st_ino || mine.st_dev != named.st_dev) continue;
    lock_ = std::move(file);
    return;
  }
}

void Listener::removeStale() {
  struct stat status;
  if (lstat(path_.c_str(), &status) != 0) {
    if (errno == ENOENT) return;
    throw Error::ofErrno(errno, "stat", path_);
  }
  if (!S_ISSOCK(status.st_mode)) throw Error(Code::InvalidArgument, "there is a file that is no socket: " + path_, 0, path_);
  try {
    connectUnix(path_);
  } catch (const Error& error) {
    if (error.error == ENOENT) return;
    // EAGAIN: its backlog is full, so someone is there.
    if (error.error != ECONNREFUSED) throw error.error == EAGAIN ? busy(path_) : error;
    if (unlink(path_.c_str()) != 0 && errno != ENOENT) throw Error::ofErrno(errno, "remove the stale socket", path_);
    return;
  }
  throw busy(path_);
}

int Listener::accept() {
  while (true) {
    const int fd = accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) return fd;
    // A peer that is gone before it was accepted is no error.
    if (errno != EINTR && errno != ECONNABORTED) return -errno;
  }
}

void Listener::close() {
  if (lock_.get() < 0) return;
  struct stat status;
  if (inode_ != 0 && lstat(path_.c_str(), &status) == 0 && status.st_ino == inode_ && status.st_dev == device_) {
    unlink(path_.c_str());
  }
  socket_.reset();
  unlink((path_ + ".lock").c_str());
  lock_.reset();
}

}  // namespace kvferry
