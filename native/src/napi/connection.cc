#include "napi/connection.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace kvferry::binding {
namespace {

/** recvmsg calls for one connection before the others have their turn. */
constexpr int kReceivesInARowMax = 16;

Napi::FunctionReference functionOf(Napi::Object handlers, const char* name, bool optional) {
  const Napi::Value value = handlers.Get(name);
  if (value.IsFunction()) return Napi::Persistent(value.As<Napi::Function>());
  if (optional && value.IsUndefined()) return {};
  throw Error(Code::InvalidArgument, std::string(name) + " must be a function");
}

std::vector<int> descriptorsOf(Napi::Value value) {
  std::vector<int> fds;
  if (value.IsUndefined()) return fds;
  if (!value.IsArray()) throw Error(Code::InvalidArgument, "fds must be an array");
  const auto array = value.As<Napi::Array>();
  if (array.Length() > kFdsMax) throw Error(Code::InvalidArgument, "a message takes 16 descriptors at most");
  for (uint32_t i = 0; i < array.Length(); i++) {
    fds.push_back(static_cast<int>(wholeNumber(array.Get(i), "a descriptor", INT32_MAX)));
  }
  return fds;
}

}  // namespace

napi_value callFromLoop(Napi::Env env, const Napi::FunctionReference& function,
                        const std::vector<napi_value>& arguments) {
  napi_value result = nullptr;
  const napi_status status = napi_make_callback(env, nullptr, env.Global(), function.Value(), arguments.size(),
                                                arguments.data(), &result);
  if (status == napi_pending_exception) {
    napi_value thrown;
    if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) napi_fatal_exception(env, thrown);
    return nullptr;
  }
  return status == napi_ok ? result : nullptr;
}

Napi::Function Connection::define(Napi::Env env) {
  return DefineClass(env, "UnixConnection",
                     {InstanceAccessor<&Connection::peer>("peer"),
                      InstanceAccessor<&Connection::bufferedBytes>("bufferedBytes"),
                      InstanceMethod<&Connection::send>("send"), InstanceMethod<&Connection::end>("end"),
                      InstanceMethod<&Connection::close>("close")});
}

Napi::Object Connection::make(Napi::Env env, Fd socket, uint64_t sendBufferBytesMax) {
  Napi::Object object = addonData(env).connectionClass.New({});
  Connection* const self = Unwrap(object);
  self->peer_ = peerOf(socket.get());
  self->poll_ = Poll::open(addonData(env), self, socket.get());
  self->socket_ = std::move(socket);
  self->queue_ = std::make_unique<SendQueue>(sendBufferBytesMax);
  self->Ref();  // until libuv has let go
  return object;
}

void Connection::start(Napi::Value handlers) {
  try {
    if (!handlers.IsObject()) throw Error(Code::InvalidArgument, "handlers must be an object");
    onData_ = functionOf(handlers.As<Napi::Object>(), "onData", false);
    onEnd_ = functionOf(handlers.As<Napi::Object>(), "onEnd", true);
    onClose_ = functionOf(handlers.As<Napi::Object>(), "onClose", false);
  } catch (...) {
    refuse();
    throw;
  }
  watch();
}

void Connection::refuse() {
  onData_.Reset();
  onEnd_.Reset();
  onClose_.Reset();
  finish(nullptr);
}

Napi::Value Connection::peer(const Napi::CallbackInfo& info) {
  Napi::Object peer = Napi::Object::New(info.Env());
  peer.Set("pid", peer_.pid);
  peer.Set("uid", peer_.uid);
  peer.Set("gid", peer_.gid);
  return peer;
}

Napi::Value Connection::bufferedBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), queue_ ? static_cast<double>(queue_->bytes()) : 0);
}

Napi::Value Connection::send(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Bytes bytes = bytesOf(info[0], "bytes");
    const std::vector<int> fds = descriptorsOf(info[1]);
    if (bytes.length == 0) throw Error(Code::InvalidArgument, "there is nothing to send");
    if (socket_.get() < 0 || ending_) return Napi::Boolean::New(info.Env(), false);
    const int sent = queue_->send(socket_.get(), {bytes.data, bytes.length}, fds);
    if (sent == -EMSGSIZE) throw Error(Code::Busy, "the peer does not read: sendBufferBytesMax would be exceeded");
    if (sent == -EBADF) throw Error(Code::InvalidArgument, "one of the descriptors is not open", EBADF);
    if (sent == -ETOOMANYREFS) throw Error(Code::TooManyFiles, "too many descriptors are on their way", ETOOMANYREFS);
    if (sent < 0) finish(std::make_unique<Error>(Error::ofErrno(-sent, "send to the peer", "")));
    watch();
    return Napi::Boolean::New(info.Env(), sent == 0);
  });
}

Napi::Value Connection::end(const Napi::CallbackInfo& info) {
  ending_ = true;
  shutDownWhenSent();
  return info.Env().Undefined();
}

Napi::Value Connection::close(const Napi::CallbackInfo& info) {
  finish(nullptr);
  return info.Env().Undefined();
}

void Connection::shutDownWhenSent() {
  if (!ending_ || shutDown_ || socket_.get() < 0 || queue_->bytes() > 0) return;
  shutDown_ = true;
  ::shutdown(socket_.get(), SHUT_WR);
}

void Connection::watch() {
  if (socket_.get() < 0) return;
  const bool receiving = !peerEnded_ && !onData_.IsEmpty();
  poll_->watch((receiving ? UV_READABLE : 0) | (queue_->bytes() > 0 ? UV_WRITABLE : 0));
}

void Connection::onReady(bool readable, bool writable) {
  const Napi::HandleScope scope(Env());
  if (writable) {
    const int sent = queue_->flush(socket_.get());
    if (sent < 0) return finish(std::make_unique<Error>(Error::ofErrno(-sent, "send to the peer", "")));
    shutDownWhenSent();
  }
  if (readable && !peerEnded_) receiveSome();
  watch();
}

void Connection::receiveSome() {
  uint8_t* const buffer = addonData(Env()).receiveBuffer.get();
  for (int i = 0; i < kReceivesInARowMax && socket_.get() >= 0; i++) {
    const Napi::HandleScope scope(Env());
    Received received = receive(socket_.get(), buffer, kReceiveBufferBytes);
    if (received.bytes == -EAGAIN) return;
    if (received.tooManyFds) {
      return finish(std::make_unique<Error>(Code::Protocol, "the peer sent more than 16 descriptors in a message"));
    }
    if (received.bytes < 0) {
      const auto error = static_cast<int>(-received.bytes);
      return finish(std::make_unique<Error>(Error::ofErrno(error, "receive from the peer", "")));
    }
    if (received.bytes == 0) return onStreamEnd();
    const auto count = static_cast<size_t>(received.bytes);
    Napi::Uint8Array bytes = Napi::Uint8Array::New(Env(), count);
    std::memcpy(bytes.Data(), buffer, count);
    Napi::Array fds = Napi::Array::New(Env(), received.fds.size());
    for (uint32_t each = 0; each < received.fds.size(); each++) fds.Set(each, received.fds[each].release());
    callFromLoop(Env(), onData_, {bytes, fds});
    if (count < kReceiveBufferBytes && received.fds.empty()) return;
  }
}

/** With onEnd the owner decides when the connection ends, so that its end can be the fence of docs/protocol.md. */
void Connection::onStreamEnd() {
  peerEnded_ = true;
  if (onEnd_.IsEmpty()) return finish(nullptr);
  callFromLoop(Env(), onEnd_, {});
}

void Connection::finish(std::unique_ptr<Error> error) {
  if (socket_.get() < 0) return;
  error_ = std::move(error);
  poll_->close();
  socket_.reset();
  queue_ = std::make_unique<SendQueue>(0);
}

void Connection::onPollClosed() {
  const Napi::HandleScope scope(Env());
  poll_ = nullptr;
  if (!onClose_.IsEmpty()) {
    callFromLoop(Env(), onClose_, {error_ ? napi_value(errorOf(Env(), *error_).Value()) : Env().Undefined()});
  }
  onData_.Reset();
  onEnd_.Reset();
  onClose_.Reset();
  Unref();
}

void Connection::onEnvironmentEnd() {
  socket_.reset();
  poll_ = nullptr;
}

}  // namespace kvferry::binding
