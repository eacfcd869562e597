#include "napi/completions.h"

namespace kvferry::binding {

std::shared_ptr<Completions> Completions::make(Napi::Env env) {
  std::shared_ptr<Completions> completions(new Completions(env));
  const napi_status status = napi_create_threadsafe_function(
      env, nullptr, nullptr, Napi::String::New(env, "kvferry"), 0, 1, nullptr, nullptr, completions.get(), onWake,
      &completions->function_);
  if (status != napi_ok) throw Napi::Error::New(env);
  napi_unref_threadsafe_function(env, completions->function_);
  return completions;
}

void Completions::begin() {
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, function_);
}

void Completions::push(std::shared_ptr<Completion> completion) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  finished_.push_back(std::move(completion));
  // Under the lock, so that `end` cannot come in between. One wake-up is enough for all that wait.
  if (finished_.size() == 1) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

void Completions::onWake(napi_env env, napi_value, void* context, void*) {
  if (env != nullptr) static_cast<Completions*>(context)->settleAll();
}

void Completions::settleAll() {
  std::vector<std::shared_ptr<Completion>> finished;
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    finished.swap(finished_);
  }
  for (const auto& completion : finished) {
    const Napi::HandleScope scope(env_);
    try {
      completion->settle(env_);
    } catch (const Napi::Error&) {
      // A worker that is being terminated runs no JavaScript any more, so nobody waits for it either.
    }
  }
  pending_ -= static_cast<uint32_t>(finished.size());
  if (pending_ == 0) napi_unref_threadsafe_function(env_, function_);
}

void Completions::end() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
}

}  // namespace kvferry::binding
