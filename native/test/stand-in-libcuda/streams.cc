// Streams are threads, and events what they say when they come by.
#include "stand_in.h"

namespace stand_in {
namespace {

std::mutex randomMutex;

void runStream(Stream* stream) {
  std::unique_lock lock(stream->mutex);
  for (;;) {
    stream->changed.wait(lock, [&] { return stream->ending || !stream->queue.empty(); });
    if (stream->queue.empty()) return;
    std::function<void()> work = std::move(stream->queue.front());
    stream->queue.pop_front();
    lock.unlock();
    work();
    work = nullptr;
    lock.lock();
    stream->done++;
    stream->changed.notify_all();
  }
}

}  // namespace

uint64_t randomNumber() {
  static auto* const random = new std::mt19937_64(numberSetting("SEED", 1));
  const std::lock_guard lock(randomMutex);
  return (*random)();
}

void delay(uint64_t microsMax) {
  if (microsMax > 0) std::this_thread::sleep_for(std::chrono::microseconds(randomNumber() % (microsMax + 1)));
}

void submit(Stream* stream, std::function<void()> work) {
  const std::lock_guard lock(stream->mutex);
  stream->queue.push_back(std::move(work));
  stream->submitted++;
  stream->changed.notify_all();
}

void drain(Stream* stream) {
  std::unique_lock lock(stream->mutex);
  const uint64_t target = stream->submitted;
  stream->changed.wait(lock, [&] { return stream->done >= target; });
}

}  // namespace stand_in

using namespace stand_in;

STAND_IN_EXPORT int cuStreamCreateWithPriority(Stream** stream, unsigned, int) {
  if (const int result = enter("cuStreamCreateWithPriority", true)) return result;
  *stream = new Stream();
  (*stream)->context = currentContext();
  (*stream)->thread = std::thread(runStream, *stream);
  counters().streams++;
  return kSuccess;
}

STAND_IN_EXPORT int cuStreamDestroy_v2(Stream* stream) {
  // A broken context takes its streams with it, whatever the call says.
  const int result = enter("cuStreamDestroy_v2", true);
  {
    const std::lock_guard lock(stream->mutex);
    stream->ending = true;
    stream->changed.notify_all();
  }
  stream->thread.join();
  delete stream;
  counters().streams--;
  return result;
}

STAND_IN_EXPORT int cuStreamSynchronize(Stream* stream) {
  if (const int result = enter("cuStreamSynchronize", true)) return result;
  drain(stream);
  return stream->context->sticky;
}

STAND_IN_EXPORT int cuEventCreate(Event** event, unsigned) {
  if (const int result = enter("cuEventCreate", true)) return result;
  *event = new Event();
  counters().events++;
  return kSuccess;
}

STAND_IN_EXPORT int cuEventDestroy_v2(Event* event) {
  const int result = enter("cuEventDestroy_v2", true);
  {
    std::unique_lock lock(event->mutex);
    event->changed.wait(lock, [&] { return event->completed >= event->recorded; });
  }
  delete event;
  counters().events--;
  return result;
}

STAND_IN_EXPORT int cuEventRecord(Event* event, Stream* stream) {
  if (const int result = enter("cuEventRecord", true)) return result;
  uint64_t number;
  {
    const std::lock_guard lock(event->mutex);
    number = ++event->recorded;
  }
  submit(stream, [event, number] {
    const std::lock_guard lock(event->mutex);
    event->completed = number;
    event->changed.notify_all();
  });
  return kSuccess;
}

STAND_IN_EXPORT int cuEventSynchronize(Event* event) {
  if (const int result = enter("cuEventSynchronize", true)) return result;
  std::unique_lock lock(event->mutex);
  const uint64_t target = event->recorded;
  event->changed.wait(lock, [&] { return event->completed >= target; });
  return currentContext()->sticky;
}
