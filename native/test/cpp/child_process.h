// This very program, started again for something that needs a process of its own: CHILD(name).
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <string>

#include "check.h"

extern char** environ;

namespace kvferry::test {

using Environment = std::map<std::string, std::string>;

/** Answers lines on its stdin with lines on its stdout; what it says on stderr goes to ours. Killed with the object. */
class ChildProcess {
 public:
  explicit ChildProcess(const std::string& name, const Environment& environment = {}) {
    int toChild[2];
    int fromChild[2];
    if (pipe2(toChild, O_CLOEXEC) != 0 || pipe2(fromChild, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, toChild[0], 0);
    posix_spawn_file_actions_adddup2(&actions, fromChild[1], 1);
    std::vector<std::string> variables;
    for (const auto& [key, value] : environment) variables.push_back(key + "=" + value);
    for (char** variable = environ; *variable != nullptr; variable++) {
      const std::string text = *variable;
      if (!environment.contains(text.substr(0, text.find('=')))) variables.push_back(text);
    }
    std::vector<char*> pointers;
    for (std::string& variable : variables) pointers.push_back(variable.data());
    pointers.push_back(nullptr);
    std::string words[] = {"tests", "--child", name};
    char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), nullptr};
    const int error = posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, arguments, pointers.data());
    posix_spawn_file_actions_destroy(&actions);
    close(toChild[0]);
    close(fromChild[1]);
    in_ = toChild[1];
    out_ = fromChild[0];
    if (error != 0) throw std::runtime_error("no child");
  }
  ~ChildProcess() {
    kill();
    wait();
    close(in_);
    close(out_);
  }
  ChildProcess(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void kill() {
    if (!waited_) ::kill(pid_, SIGKILL);
  }
  /** As waitpid has it. */
  int wait() {
    if (!waited_) waitpid(pid_, &status_, 0);
    waited_ = true;
    return status_;
  }
  /** Sends a line and gives the next one back. */
  std::string ask(const std::string& line) {
    const std::string text = line + "\n";
    if (write(in_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) throw std::runtime_error("the child has ended");
    return readLine();
  }
  std::string readLine() {
    std::string line;
    char c;
    while (read(out_, &c, 1) == 1) {
      if (c == '\n') return line;
      line += c;
    }
    throw std::runtime_error("the child has ended");
  }

 private:
  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  int status_ = 0;
  bool waited_ = false;
};

}  // namespace kvferry::test
