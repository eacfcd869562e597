#include "engine/engine.h"

#include <pthread.h>

#include <system_error>

namespace kvferry {

void Executor::start(const std::string& name, std::function<void()> body) {
  queue_->threadStarted();
  try {
    threads_.emplace_back([queue = queue_, name, body = std::move(body)] {
      pthread_setname_np(pthread_self(), name.c_str());
      blockSignals();
      body();
      queue->threadEnded();
    });
  } catch (const std::system_error& error) {
    queue_->threadEnded();
    close(nullptr);
    join(0);
    throw Error::ofErrno(error.code().value(), "start I/O threads", "");
  }
}

bool Executor::join(uint32_t timeoutMs) {
  if (threads_.empty()) return true;
  const bool ended = queue_->waitForThreads(timeoutMs);
  for (auto& thread : threads_) {
    if (ended) {
      thread.join();
    } else {
      thread.detach();
    }
  }
  threads_.clear();
  return ended;
}

Engine::Engine(const EngineOptions& options)
    : Executor(std::make_shared<WorkQueue>(options.queueDepthMax, options.threads)) {
  if (options.threads == 0 || options.threads > 1024) throw Error(Code::InvalidArgument, "threads must be 1 to 1024");
  if (options.queueDepthMax == 0) throw Error(Code::InvalidArgument, "queueDepthMax must be positive");
  for (uint32_t i = 0; i < options.threads; i++) {
    start("kvferry-io-" + std::to_string(i), [queue = queue_] {
      ThreadState state;
      Unit unit;
      while (queue->next(unit)) unit.work->run(unit.index, state);
    });
  }
}

Engine::~Engine() {
  close(nullptr);
  join(0);
}

}  // namespace kvferry
