#include <algorithm>

#include "device/parts.h"
#include "napi/blocks.h"
#include "napi/device_options.h"
#include "napi/engine_handle.h"

namespace kvferry::binding {
namespace {

/** What a thread takes at a time: long enough that taking costs nothing, short enough that all threads get some. */
constexpr uint64_t kUnitBytes = 512 * 1024;

/** A device that is open. */
struct OpenDevice {
  std::unique_ptr<Device> device;
  DeviceLayout layout;
};

struct PartsPlan {
  Direction direction;
  uint8_t* host;
  std::shared_ptr<Region> region;
  const double* hostOffsets;
  const uint32_t* groups;
  const uint32_t* blocks;
  uint32_t count;
  uint32_t partsPerUnit;
};

/** A gather or scatter. It is not abandonable: a call that has ended must touch no memory, and these copies do not hang. */
class PartsBatch final : public Batch {
 public:
  PartsBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<OpenDevice> device, PartsPlan plan)
      : Batch(plan.direction == Direction::Scatter ? Priority::Load : Priority::Store,
              (plan.count + plan.partsPerUnit - 1) / plan.partsPerUnit, std::move(engine), env),
        device_(std::move(device)),
        direction_(plan.direction),
        region_(std::move(plan.region)),
        partsPerUnit_(plan.partsPerUnit),
        pages_(plan.blocks, plan.blocks + size_t{plan.count} * device_->layout.blocksPerChunk()),
        parts_(plan.count),
        outcomes_(plan.count) {
    for (uint32_t i = 0; i < plan.count; i++) {
      parts_[i] = {plan.host + static_cast<uint64_t>(plan.hostOffsets[i]), plan.groups[i],
                   pages_.data() + size_t{i} * device_->layout.blocksPerChunk()};
    }
  }

  void run(uint32_t unit, ThreadState&) noexcept override {
    const uint32_t first = unit * partsPerUnit_;
    copyParts(*device_->device, device_->layout, direction_, &parts_[first], endOf(unit) - first, region_.get(),
              &outcomes_[first]);
  }

  void skip(uint32_t unit, Code why) noexcept override {
    for (uint32_t i = unit * partsPerUnit_; i < endOf(unit); i++) outcomes_[i] = failed(why);
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    region_.reset();
    device_.reset();
    return resultOf(env, outcomes_);
  }

 private:
  uint32_t endOf(uint32_t unit) const {
    return static_cast<uint32_t>(std::min<size_t>(parts_.size(), size_t{unit + 1} * partsPerUnit_));
  }

  std::shared_ptr<OpenDevice> device_;
  const Direction direction_;
  std::shared_ptr<Region> region_;
  const uint32_t partsPerUnit_;
  const std::vector<uint32_t> pages_;
  std::vector<Part> parts_;
  std::vector<BlockOutcome> outcomes_;
};

/** Ends a device on a thread, because a driver may take its time; on this one if the engine takes no more work. */
class EndBatch final : public Batch {
 public:
  EndBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, std::shared_ptr<OpenDevice> device)
      : Batch(Priority::Load, 1, std::move(engine), env), device_(std::move(device)) {}
  void run(uint32_t, ThreadState&) noexcept override { device_.reset(); }

 protected:
  Napi::Value result(Napi::Env env) override {
    device_.reset();
    return env.Undefined();
  }

 private:
  std::shared_ptr<OpenDevice> device_;
};

class DeviceObject : public Napi::ObjectWrap<DeviceObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Device",
                       {InstanceAccessor<&DeviceObject::partBytes>("partBytes"),
                        InstanceMethod<&DeviceObject::copy>("copy"), InstanceMethod<&DeviceObject::stats>("stats"),
                        InstanceMethod<&DeviceObject::close>("close")});
  }

  explicit DeviceObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  static Napi::Value make(Napi::Env env, std::shared_ptr<EngineHandle> engine, std::shared_ptr<OpenDevice> device) {
    Napi::Object object = addonData(env).deviceClass.New({});
    DeviceObject* const self = Unwrap(object);
    self->engine_ = std::move(engine);
    self->partBytes_ = device->layout.partBytes();
    self->device_ = std::move(device);
    return object;
  }

 private:
  Napi::Value partBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(partBytes_));
  }

  /** (scatter, DeviceCopies, ticket) */
  Napi::Value copy(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!device_) throw Error(Code::Closed, "the device is closed");
      if (!info[1].IsObject()) throw Error::ofField("copies", "must be an object");
      const auto copies = info[1].As<Napi::Object>();
      PartsPlan plan = planOf(copies, info[0].ToBoolean() ? Direction::Scatter : Direction::Gather);
      const auto batch = std::make_shared<PartsBatch>(engine_, info.Env(), device_, std::move(plan));
      batch->keep(copies.Get("host"));
      return batch->submit(ticketOf(info[2]));
    });
  }

  PartsPlan planOf(Napi::Object copies, Direction direction) const {
    const DeviceLayout& layout = device_->layout;
    PartsPlan plan{};
    plan.direction = direction;
    const Bytes host = bytesOf(copies.Get("host"), "host");
    plan.host = host.data;
    plan.region = Region::find(host.data, host.length == 0 ? 1 : host.length);
    plan.count = numbersLength(copies.Get("groups"), "groups");
    plan.groups = numbersOf(copies.Get("groups"), "groups", plan.count);
    plan.hostOffsets = hostOffsetsOf(copies.Get("hostOffsets"), plan.count, layout.partBytes(),
                                     extentOf(copies.Env(), host, plan.region.get()));
    plan.blocks = blocksOf(copies.Get("blocks"), layout, plan.groups, plan.count);
    plan.partsPerUnit = static_cast<uint32_t>(std::clamp<uint64_t>(kUnitBytes / layout.partBytes(), 1, kUnitBytes));
    return plan;
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      if (!device_) throw Error(Code::Closed, "the device is closed");
      const DeviceStats stats = device_->device->stats();
      Napi::Object result = Napi::Object::New(info.Env());
      result.Set("pinnedBytes", static_cast<double>(stats.pinnedBytes));
      result.Set("unpinnedBytes", static_cast<double>(stats.unpinnedBytes));
      result.Set("unpinnedReason", stats.unpinnedReason);
      result.Set("lastError", stats.lastError);
      return result;
    });
  }

  /** JavaScript has waited for all batches. */
  Napi::Value close(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] {
      return std::make_shared<EndBatch>(engine_, info.Env(), std::move(device_))->submit(0);
    });
  }

  std::shared_ptr<EngineHandle> engine_;
  std::shared_ptr<OpenDevice> device_;
  uint64_t partBytes_ = 0;
};

/** Opening asks another process or a driver, so a thread does it. */
class OpenBatch final : public Batch {
 public:
  OpenBatch(std::shared_ptr<EngineHandle> engine, Napi::Env env, DeviceOptions options)
      : Batch(Priority::Load, 1, std::move(engine), env), options_(std::move(options)) {}

  void run(uint32_t, ThreadState&) noexcept override {
    try {
      std::unique_ptr<Device> device = options_.open();
      for (const auto& region : options_.hostRegions) device->useHostMemory(region);
      device_ = std::make_shared<OpenDevice>(OpenDevice{std::move(device), *options_.layout});
    } catch (const Error& error) {
      error_ = std::make_unique<Error>(error);
    } catch (...) {
      error_ = std::make_unique<Error>(Code::Internal, "out of memory");
    }
  }

 protected:
  Napi::Value result(Napi::Env env) override {
    options_ = {};
    if (skipped() != Code::None) throw Error(skipped(), "the engine did not open the device");
    if (error_) throw Error(*error_);
    return DeviceObject::make(env, engine(), std::move(device_));
  }

 private:
  DeviceOptions options_;
  std::shared_ptr<OpenDevice> device_;
  std::unique_ptr<Error> error_;
};

}  // namespace

Napi::Value openDevice(const std::shared_ptr<EngineHandle>& engine, Napi::Object options) {
  return std::make_shared<OpenBatch>(engine, options.Env(), deviceOptionsOf(options))->submit(0);
}

Napi::Function defineDeviceClass(Napi::Env env) { return DeviceObject::define(env); }

}  // namespace kvferry::binding
