// A descriptor on Node's own loop, so that what arrives needs no other thread.
#pragma once

#include "napi/support.h"

namespace kvferry::binding {

class PollOwner {
 public:
  virtual ~PollOwner() = default;
  virtual void onReady(bool readable, bool writable) = 0;
  /** libuv has let go. Not called when the environment is ending. */
  virtual void onPollClosed() = 0;
  /** The environment is ending: closes without calling JavaScript. */
  virtual void onEnvironmentEnd() = 0;
};

class Poll {
 public:
  /** The descriptor stays the owner's, who closes it after `close`. Throws Error. */
  static Poll* open(AddonData& addon, PollOwner* owner, int fd);
  /** 0 watches nothing; else UV_READABLE and UV_WRITABLE. */
  void watch(int events);
  /** The owner hears no more of it but onPollClosed. */
  void close();

  PollOwner* owner() const { return owner_; }
  /** No more words to the owner, not even the last. */
  void abandon() { owner_ = nullptr; }

 private:
  Poll(AddonData& addon, PollOwner* owner) : addon_(addon), owner_(owner) {}
  static void onEvent(uv_poll_t* handle, int status, int events);
  static void onClosed(uv_handle_t* handle);

  AddonData& addon_;
  PollOwner* owner_;
  uv_poll_t handle_ = {};
  int events_ = 0;
  bool closing_ = false;
};

}  // namespace kvferry::binding
