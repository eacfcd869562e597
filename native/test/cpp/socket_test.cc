// Bytes and descriptors through Unix sockets, and who may listen where.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "fixture.h"
#include "socket/unix_socket.h"

namespace kvferry::test {
namespace {

struct Pair {
  Pair() {
    int ends[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    left = Fd(ends[0]);
    right = Fd(ends[1]);
  }
  Fd left;
  Fd right;
};

std::span<const uint8_t> bytesOf(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

Code listenCode(const std::string& path, mode_t mode = 0600) {
  try {
    Listener listener(path, mode);
  } catch (const Error& error) {
    return error.code;
  }
  return Code::None;
}

size_t openDescriptors() {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) count += !entry.path().empty();
  return count;
}

}  // namespace

TEST(descriptors_arrive_close_on_exec_and_work) {
  Pair pair;
  SendQueue queue(1 << 20);
  int pipes[2];
  CHECK_EQ(pipe(pipes), 0);
  const int fds[] = {pipes[1]};
  CHECK_EQ(queue.send(pair.left.get(), bytesOf("hello"), fds), 0);
  char buffer[100];
  Received received = receive(pair.right.get(), buffer, sizeof(buffer));
  CHECK_EQ(received.bytes, 5);
  CHECK_EQ(received.fds.size(), 1u);
  CHECK((fcntl(received.fds[0].get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK_EQ(write(received.fds[0].get(), "x", 1), 1);
  CHECK_EQ(read(pipes[0], buffer, 1), 1);
  CHECK_EQ(receive(pair.right.get(), buffer, sizeof(buffer)).bytes, -EAGAIN);
  pair.left.reset();
  CHECK_EQ(receive(pair.right.get(), buffer, sizeof(buffer)).bytes, 0);
  close(pipes[0]);
  close(pipes[1]);
}

TEST(sixteen_descriptors_pass_and_more_are_closed) {
  Pair pair;
  SendQueue queue(1 << 20);
  const std::vector<int> sixteen(16, 0);
  char buffer[100];
  CHECK_EQ(queue.send(pair.left.get(), bytesOf("a"), sixteen), 0);
  CHECK_EQ(receive(pair.right.get(), buffer, sizeof(buffer)).fds.size(), 16u);
  const size_t before = openDescriptors();
  std::vector<int> many(200, 0);
  alignas(cmsghdr) char control[CMSG_SPACE(200 * sizeof(int))] = {};
  iovec part{buffer, 1};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(200 * sizeof(int));
  std::memcpy(CMSG_DATA(header), many.data(), 200 * sizeof(int));
  CHECK_EQ(sendmsg(pair.left.get(), &message, 0), 1);
  const Received received = receive(pair.right.get(), buffer, sizeof(buffer));
  CHECK(received.tooManyFds);
  CHECK_EQ(received.fds.size(), 0u);
  CHECK_EQ(openDescriptors(), before);
}

TEST(what_the_kernel_does_not_take_waits_in_order_and_bounded) {
  Pair pair;
  const std::string big(3 << 20, 'b');
  SendQueue queue(4 << 20);
  const int fds[] = {0};
  CHECK_EQ(queue.send(pair.left.get(), bytesOf(big), {}), 0);
  CHECK(queue.bytes() > 0);
  CHECK_EQ(queue.send(pair.left.get(), bytesOf("marker"), fds), 0);
  CHECK_EQ(queue.send(pair.left.get(), bytesOf("tail"), {}), 0);
  const uint64_t waiting = queue.bytes();
  CHECK_EQ(queue.send(pair.left.get(), bytesOf(big), {}), -EMSGSIZE);
  CHECK_EQ(queue.bytes(), waiting);
  std::string got;
  size_t markerAt = 0;
  std::vector<char> buffer(100'000);
  while (got.size() < big.size() + 10) {
    CHECK_EQ(queue.flush(pair.left.get()), 0);
    const Received received = receive(pair.right.get(), buffer.data(), buffer.size());
    if (received.bytes == -EAGAIN) continue;
    CHECK(received.bytes > 0);
    // The kernel joins bytes before them to a message with descriptors, but never bytes after them.
    if (!received.fds.empty()) {
      markerAt = std::string(buffer.data(), static_cast<size_t>(received.bytes)).find("marker");
      CHECK(markerAt != std::string::npos);
      markerAt += got.size();
    }
    got.append(buffer.data(), static_cast<size_t>(received.bytes));
  }
  CHECK_EQ(markerAt, big.size());
  CHECK_EQ(got.substr(big.size()), "markertail");
  CHECK_EQ(queue.bytes(), 0u);
}

TEST(sending_to_a_peer_that_is_gone_is_an_error_not_a_signal) {
  Pair pair;
  pair.right.reset();
  SendQueue queue(1000);
  CHECK_EQ(queue.send(pair.left.get(), bytesOf("x"), {}), -EPIPE);
}

TEST(a_socket_is_never_more_open_than_asked) {
  Scratch scratch;
  const mode_t before = umask(0);
  for (const mode_t mode : {0600u, 0660u}) {
    const std::string path = scratch / "s";
    Listener listener(path, mode);
    struct stat status;
    CHECK_EQ(stat(path.c_str(), &status), 0);
    CHECK_EQ(status.st_mode & 0777, mode);
  }
  umask(before);
}

TEST(one_server_listens_and_its_files_go_with_it) {
  Scratch scratch;
  const std::string path = scratch / "s";
  {
    Listener listener(path, 0600);
    CHECK_EQ(listenCode(path), Code::Busy);
    const Fd client = connectUnix(path);
    const Fd server(listener.accept());
    CHECK(server.get() >= 0);
    CHECK_EQ(peerOf(server.get()).pid, getpid());
    CHECK_EQ(peerOf(server.get()).uid, getuid());
    CHECK_EQ(listener.accept(), -EAGAIN);
  }
  CHECK_EQ(filesIn(scratch / ""), 0u);
  CHECK(!std::filesystem::exists(path));
  CHECK_EQ(listenCode(path), Code::None);
}

TEST(a_stale_socket_is_replaced_and_a_live_one_of_others_is_not) {
  Scratch scratch;
  const std::string path = scratch / "s";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, path.c_str());
  Fd other(socket(AF_UNIX, SOCK_STREAM, 0));
  CHECK_EQ(bind(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  CHECK_EQ(listen(other.get(), 1), 0);
  CHECK_EQ(listenCode(path), Code::Busy);
  CHECK(std::filesystem::exists(path));
  other.reset();
  CHECK_EQ(listenCode(path), Code::None);
  writeAll(path, {1, 2, 3});
  CHECK_EQ(listenCode(path), Code::InvalidArgument);
  CHECK_EQ(readAll(path).size(), 3u);
}

TEST(a_server_removes_only_its_own_socket) {
  Scratch scratch;
  const std::string path = scratch / "s";
  Listener listener(path, 0600);
  std::filesystem::remove(path);
  writeAll(path, {1});
  listener.close();
  CHECK(std::filesystem::exists(path));
}

TEST(connecting_to_nobody_is_unavailable) {
  Scratch scratch;
  const auto code = [](const std::string& path) {
    try {
      connectUnix(path);
    } catch (const Error& error) {
      return error.code;
    }
    return Code::None;
  };
  CHECK_EQ(code(scratch / "nothing"), Code::Unavailable);
  CHECK_EQ(code(std::string(200, 'x')), Code::InvalidArgument);
}

}  // namespace kvferry::test
