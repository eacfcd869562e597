#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "napi/connection.h"

namespace kvferry::binding {
namespace {

constexpr uint64_t kSendBufferBytesMax = uint64_t{64} << 20;
constexpr uint64_t kWholeMax = uint64_t{1} << 53;
/** Peers taken before the other sockets have their turn. */
constexpr int kAcceptsInARowMax = 16;

uint64_t sendBufferOf(Napi::Object options) {
  const Napi::Value value = options.Get("sendBufferBytesMax");
  return value.IsUndefined() ? kSendBufferBytesMax : wholeNumber(value, "sendBufferBytesMax", kWholeMax);
}

class Server : public Napi::ObjectWrap<Server>, private PollOwner {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "UnixServer",
                       {InstanceAccessor<&Server::path>("path"), InstanceMethod<&Server::close>("close")});
  }

  explicit Server(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  static Napi::Value listen(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const std::string path = text(info[0], "path");
      if (!info[1].IsObject()) throw Error(Code::InvalidArgument, "options must be an object");
      const auto options = info[1].As<Napi::Object>();
      const Napi::Value mode = options.Get("mode");
      const Napi::Value onConnection = options.Get("onConnection");
      const Napi::Value onError = options.Get("onError");
      if (!onConnection.IsFunction() || !onError.IsFunction()) {
        throw Error(Code::InvalidArgument, "onConnection and onError must be functions");
      }
      Napi::Object object = addonData(info.Env()).serverClass.New({});
      Server* const self = Unwrap(object);
      self->sendBufferBytesMax_ = sendBufferOf(options);
      self->listener_ = std::make_unique<Listener>(
          path, mode.IsUndefined() ? 0600 : static_cast<mode_t>(wholeNumber(mode, "mode", 0777)));
      self->path_ = path;
      self->onConnection_ = Napi::Persistent(onConnection.As<Napi::Function>());
      self->onError_ = Napi::Persistent(onError.As<Napi::Function>());
      self->poll_ = Poll::open(addonData(info.Env()), self, self->listener_->fd());
      self->reserve_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
      self->poll_->watch(UV_READABLE);
      self->Ref();  // until libuv has let go
      return object;
    });
  }

 private:
  Napi::Value path(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), path_); }

  Napi::Value close(const Napi::CallbackInfo& info) {
    if (listener_) {
      poll_->close();
      listener_.reset();
    }
    return info.Env().Undefined();
  }

  void onReady(bool, bool) override {
    for (int i = 0; i < kAcceptsInARowMax && listener_; i++) {
      const Napi::HandleScope scope(Env());
      const int fd = listener_->accept();
      if (fd == -EAGAIN) return;
      if (fd >= 0) {
        onPeer(Fd(fd));
      } else {
        if (fd == -EMFILE || fd == -ENFILE) refuseOne();
        report(Error::ofErrno(-fd, "accept a connection on", path_));
        return;
      }
    }
  }

  /** Without descriptors the peer would stay in the queue and the loop would spin: the reserve lets it be turned away. */
  void refuseOne() {
    reserve_.reset();
    const Fd refused(listener_->accept());
    reserve_ = Fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  }

  void onPeer(Fd socket) {
    Connection* connection = nullptr;
    try {
      const Napi::Object object = Connection::make(Env(), std::move(socket), sendBufferBytesMax_);
      connection = Connection::Unwrap(object);
      const napi_value handlers = callFromLoop(Env(), onConnection_, {object});
      if (handlers == nullptr || Napi::Value(Env(), handlers).IsUndefined()) {
        connection->refuse();
      } else {
        connection->start(Napi::Value(Env(), handlers));
      }
    } catch (const Error& error) {
      report(error);
    } catch (const Napi::Error& error) {
      report(Error(Code::Internal, error.Message()));
    }
  }

  void report(const Error& error) { callFromLoop(Env(), onError_, {errorOf(Env(), error).Value()}); }

  void onPollClosed() override {
    poll_ = nullptr;
    onConnection_.Reset();
    onError_.Reset();
    Unref();
  }

  void onEnvironmentEnd() override {
    listener_.reset();
    poll_ = nullptr;
  }

  std::string path_;
  uint64_t sendBufferBytesMax_ = kSendBufferBytesMax;
  std::unique_ptr<Listener> listener_;
  Fd reserve_;
  Poll* poll_ = nullptr;
  Napi::FunctionReference onConnection_;
  Napi::FunctionReference onError_;
};

Napi::Value connect(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const uint64_t sendBuffer = info[2].IsObject() ? sendBufferOf(info[2].As<Napi::Object>()) : kSendBufferBytesMax;
    const Napi::Object object = Connection::make(info.Env(), connectUnix(text(info[0], "path")), sendBuffer);
    Connection::Unwrap(object)->start(info[1]);
    return object;
  });
}

}  // namespace

void exportSockets(Napi::Env env, Napi::Object exports) {
  AddonData& addon = addonData(env);
  addon.connectionClass = Napi::Persistent(Connection::define(env));
  addon.serverClass = Napi::Persistent(Server::define(env));
  exports.Set("listenUnix", Napi::Function::New(env, Server::listen));
  exports.Set("connectUnix", Napi::Function::New(env, connect));
}

}  // namespace kvferry::binding
