#include "napi/poll.h"

namespace kvferry::binding {

Poll* Poll::open(AddonData& addon, PollOwner* owner, int fd) {
  if (addon.ending) throw Error(Code::Closed, "the environment is ending");
  auto* const poll = new Poll(addon, owner);
  const int status = uv_poll_init(addon.loop, &poll->handle_, fd);
  if (status < 0) {
    delete poll;
    throw Error::ofErrno(-status, "watch a socket", "");
  }
  poll->handle_.data = poll;
  addon.polls.insert(poll);
  return poll;
}

void Poll::watch(int events) {
  if (closing_ || events == events_) return;
  events_ = events;
  if (events == 0) {
    uv_poll_stop(&handle_);
  } else {
    uv_poll_start(&handle_, events, onEvent);
  }
}

void Poll::close() {
  if (closing_) return;
  closing_ = true;
  uv_close(reinterpret_cast<uv_handle_t*>(&handle_), onClosed);
}

void Poll::onEvent(uv_poll_t* handle, int status, int events) {
  auto* const poll = static_cast<Poll*>(handle->data);
  if (poll->owner_ == nullptr) return;
  const bool readable = status < 0 || (events & UV_READABLE) != 0;  // an error shows itself to the next system call
  const bool writable = status >= 0 && (events & UV_WRITABLE) != 0;
  try {
    poll->owner_->onReady(readable, writable);
  } catch (const Napi::Error&) {
    // A worker that is being terminated runs no JavaScript any more; its end closes the socket.
  }
}

void Poll::onClosed(uv_handle_t* handle) {
  const std::unique_ptr<Poll> poll(static_cast<Poll*>(handle->data));
  AddonData& addon = poll->addon_;
  addon.polls.erase(poll.get());
  if (!addon.ending) {
    try {
      if (poll->owner_ != nullptr) poll->owner_->onPollClosed();
    } catch (const Napi::Error&) {
      // As above.
    }
  } else if (addon.polls.empty() && addon.cleanupHook != nullptr) {
    napi_remove_async_cleanup_hook(addon.cleanupHook);
    addon.cleanupHook = nullptr;
  }
}

void endSockets(AddonData& data) {
  if (data.polls.empty()) {
    napi_remove_async_cleanup_hook(data.cleanupHook);
    data.cleanupHook = nullptr;
    return;
  }
  for (Poll* const poll : data.polls) {
    if (PollOwner* const owner = poll->owner()) owner->onEnvironmentEnd();
    poll->abandon();
    poll->close();
  }
}

}  // namespace kvferry::binding
