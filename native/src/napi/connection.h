// UnixConnection of types.ts.
#pragma once

#include "napi/poll.h"
#include "socket/unix_socket.h"

namespace kvferry::binding {

class Connection : public Napi::ObjectWrap<Connection>, private PollOwner {
 public:
  static Napi::Function define(Napi::Env env);
  explicit Connection(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  /** An object for a connected socket, without handlers yet. Throws Error. */
  static Napi::Object make(Napi::Env env, Fd socket, uint64_t sendBufferBytesMax);
  /** Starts to receive. Throws Error INVALID_ARGUMENT, and closes, when the functions are missing. */
  void start(Napi::Value handlers);
  /** Ends it at once, without a word to handlers that were never there. */
  void refuse();

 private:
  Napi::Value peer(const Napi::CallbackInfo& info);
  Napi::Value bufferedBytes(const Napi::CallbackInfo& info);
  Napi::Value send(const Napi::CallbackInfo& info);
  Napi::Value end(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  void onReady(bool readable, bool writable) override;
  void onPollClosed() override;
  void onEnvironmentEnd() override;
  void receiveSome();
  void onStreamEnd();
  void finish(std::unique_ptr<Error> error);
  void shutDownWhenSent();
  void watch();
  void call(Napi::FunctionReference& function, const std::vector<napi_value>& arguments);

  Fd socket_;
  Poll* poll_ = nullptr;
  std::unique_ptr<SendQueue> queue_;
  ucred peer_ = {};
  std::unique_ptr<Error> error_;
  bool ending_ = false;     // end() was called
  bool shutDown_ = false;   // and everything has been sent
  bool peerEnded_ = false;  // nothing more will come
  Napi::FunctionReference onData_;
  Napi::FunctionReference onEnd_;
  Napi::FunctionReference onClose_;
};

/** Calls JavaScript from the loop, microtasks and all; what it throws becomes an uncaught exception. */
napi_value callFromLoop(Napi::Env env, const Napi::FunctionReference& function, const std::vector<napi_value>& arguments);

}  // namespace kvferry::binding
