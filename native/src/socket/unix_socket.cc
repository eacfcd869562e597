#include "socket/unix_socket.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace kvferry {
namespace {

/** SCM_MAX_FD of the kernel: with room for as many, none is lost unseen. */
constexpr size_t kFdsOfKernel = 253;
constexpr int kPartsMax = 64;

sockaddr_un addressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path) || path.find('\0') != std::string::npos) {
    throw Error(Code::InvalidArgument,
                "a socket's path must have 1 to 107 bytes, this one has " + std::to_string(path.size()) + ": " + path, 0,
                path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

/** Sends parts with descriptors; bytes or -errno. */
int64_t sendParts(int socket, iovec* parts, size_t count, std::span<const int> fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsMax * sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = count;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

Fd duplicate(int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) throw Error::ofErrno(errno, "duplicate a descriptor to send", "");
  return Fd(copy);
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = other.release();
  }
  return *this;
}
Fd::~Fd() { reset(); }
int Fd::release() { return std::exchange(fd_, -1); }
void Fd::reset() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Received receive(int socket, void* buffer, size_t bytes) {
  alignas(cmsghdr) char control[CMSG_SPACE(kFdsOfKernel * sizeof(int)) + CMSG_SPACE(sizeof(ucred))];
  iovec part{buffer, bytes};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  Received received;
  do {
    received.bytes = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (received.bytes < 0 && errno == EINTR);
  if (received.bytes < 0) {
    received.bytes = -errno;
    return received;
  }
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      received.fds.emplace_back(fd);
    }
  }
  if (received.fds.size() > kFdsMax || (message.msg_flags & MSG_CTRUNC) != 0) {
    received.tooManyFds = true;
    received.fds.clear();
  }
  return received;
}

int SendQueue::send(int socket, std::span<const uint8_t> bytes, std::span<const int> fds) {
  if (bytes.empty()) return 0;
  size_t sent = 0;
  if (messages_.empty()) {
    iovec part{const_cast<uint8_t*>(bytes.data()), bytes.size()};
    const int64_t result = sendParts(socket, &part, 1, fds);
    if (result < 0 && result != -EAGAIN) return static_cast<int>(result);
    sent = result < 0 ? 0 : static_cast<size_t>(result);
    if (sent == bytes.size()) return 0;
  }
  // Once a part has gone out the rest must follow, whatever the bound says.
  if (sent == 0 && bytes.size() > bytesMax_ - std::min(bytes_, bytesMax_)) return -EMSGSIZE;
  Message message;
  if (sent == 0) {
    for (const int fd : fds) message.fds.push_back(duplicate(fd));
  }
  message.bytes.assign(bytes.begin() + static_cast<ptrdiff_t>(sent), bytes.end());
  bytes_ += message.bytes.size();
  messages_.push_back(std::move(message));
  return 0;
}

int SendQueue::flush(int socket) {
  while (!messages_.empty()) {
    // Descriptors belong to the first byte of what is sent with them, so only a first message may have any.
    iovec parts[kPartsMax];
    size_t count = 0;
    std::vector<int> fds;
    for (const Fd& fd : messages_.front().fds) fds.push_back(fd.get());
    for (Message& message : messages_) {
      if (count == kPartsMax || (count > 0 && !message.fds.empty())) break;
      parts[count++] = {message.bytes.data() + message.sent, message.bytes.size() - message.sent};
    }
    const int64_t result = sendParts(socket, parts, count, fds);
    if (result == -EAGAIN) return 0;
    if (result < 0) return static_cast<int>(result);
    messages_.front().fds.clear();
    bytes_ -= static_cast<uint64_t>(result);
    for (auto left = static_cast<size_t>(result); left > 0;) {
      Message& first = messages_.front();
      const size_t taken = std::min(left, first.bytes.size() - first.sent);
      first.sent += taken;
      left -= taken;
      if (first.sent == first.bytes.size()) messages_.pop_front();
    }
  }
  return 0;
}

Fd connectUnix(const std::string& path) {
  const sockaddr_un address = addressOf(path);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.get() < 0) throw Error::ofErrno(errno, "make a socket", "");
  int result;
  do {
    result = connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return socket;
  if (errno == ENOENT) throw Error(Code::Unavailable, "no server: there is no socket " + path, ENOENT, path);
  throw Error::ofErrno(errno, "connect to", path);
}

ucred peerOf(int socket) {
  ucred peer = {};
  socklen_t bytes = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    throw Error::ofErrno(errno, "ask for the peer's credentials", "");
  }
  return peer;
}

}  // namespace kvferry
