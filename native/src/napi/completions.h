// The way from any thread back to JavaScript: finished batches wait in a list, and one call takes all of them.
#pragma once

#include <napi.h>

#include <memory>
#include <mutex>
#include <vector>

namespace kvferry::binding {

/** Something that ends on another thread and settles a promise on this one. */
class Completion {
 public:
  virtual ~Completion() = default;
  /** On the JavaScript thread, in a handle scope of its own. */
  virtual void settle(Napi::Env env) = 0;
};

class Completions {
 public:
  static std::shared_ptr<Completions> make(Napi::Env env);

  /** JavaScript thread: something has begun that will be pushed. The process stays alive while anything has. */
  void begin();
  /** Any thread, once for each begin. Dropped when the environment has ended. */
  void push(std::shared_ptr<Completion> completion);
  /** JavaScript thread: nothing is settled any more. */
  void end();

 private:
  explicit Completions(Napi::Env env) : env_(env) {}
  static void onWake(napi_env env, napi_value callback, void* context, void* data);
  void settleAll();

  const Napi::Env env_;
  napi_threadsafe_function function_ = nullptr;
  uint32_t pending_ = 0;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Completion>> finished_;
  bool ended_ = false;
};

}  // namespace kvferry::binding
