#include <unistd.h>

#include "napi/support.h"
#include "region/region.h"

namespace kvferry::binding {
namespace {

constexpr uint64_t kWholeMax = uint64_t{1} << 53;
constexpr size_t kNode20ArrayBytesMax = 0xffffffff;

RegionShape shapeOf(Napi::Value value) {
  if (!value.IsObject()) throw Error(Code::InvalidArgument, "a region's shape must be an object");
  const auto object = value.As<Napi::Object>();
  RegionShape shape;
  shape.rows = wholeNumber(object.Get("rows"), "rows", kWholeMax);
  shape.rowBytes = wholeNumber(object.Get("rowBytes"), "rowBytes", kWholeMax);
  const Napi::Value offset = object.Get("offset");
  if (!offset.IsUndefined()) shape.offset = wholeNumber(offset, "offset", kWholeMax);
  return shape;
}

/** Node 20 ends the process rather than make an array of more than 4 GiB: it shows the rows that fit. The engines reach all
 * of them, because they know the mapping by its address. */
size_t visibleBytes(Napi::Env env, size_t bytes, uint64_t rowBytes) {
  const napi_node_version* version = nullptr;
  if (napi_get_node_version(env, &version) != napi_ok) throw Napi::Error::New(env);
  if (version->major > 20 || bytes <= kNode20ArrayBytesMax) return bytes;
  return kNode20ArrayBytesMax / rowBytes * rowBytes;
}

/** The JavaScript object; the array buffer keeps the mapping alive by itself. */
class RegionObject : public Napi::ObjectWrap<RegionObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "MappedRegion",
                       {InstanceAccessor<&RegionObject::rows>("rows"),
                        InstanceAccessor<&RegionObject::rowBytes>("rowBytes"),
                        InstanceAccessor<&RegionObject::mappedBytes>("mappedBytes"),
                        InstanceAccessor<&RegionObject::bytes>("bytes"), InstanceAccessor<&RegionObject::fd>("fd"),
                        InstanceAccessor<&RegionObject::gone>("gone"), InstanceMethod<&RegionObject::close>("close")});
  }

  explicit RegionObject(const Napi::CallbackInfo& info) : ObjectWrap(info) {}

  static std::shared_ptr<Region> regionOf(Napi::Object object) { return Unwrap(object)->region_; }

  static Napi::Value make(Napi::Env env, std::shared_ptr<Region> region, const RegionShape& shape, bool owned) {
    Napi::Object object = addonData(env).regionClass.New({});
    RegionObject* const self = Unwrap(object);
    self->region_ = std::move(region);
    self->shape_ = shape;
    self->owned_ = owned;
    self->attach(env);
    return object;
  }

 private:
  void attach(Napi::Env env) {
    const size_t bytes = visibleBytes(env, region_->bytes(), shape_.rowBytes);
    auto* const keep = new std::shared_ptr<Region>(region_);
    const auto letGo = [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<Region>*>(hint); };
    napi_value buffer;
    const napi_status status = napi_create_external_arraybuffer(env, region_->data(), bytes, letGo, keep, &buffer);
    if (status != napi_ok) {
      delete keep;
      throw Napi::Error::New(env);
    }
    const Napi::ArrayBuffer array(env, buffer);
    buffer_ = Napi::Persistent(static_cast<Napi::Object>(array));
    view_ = Napi::Persistent(static_cast<Napi::Object>(Napi::Uint8Array::New(env, bytes, array, 0)));
  }

  Napi::Value rows(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(shape_.rows));
  }
  Napi::Value rowBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(shape_.rowBytes));
  }
  Napi::Value mappedBytes(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), region_ ? static_cast<double>(region_->bytes()) : 0);
  }
  Napi::Value bytes(const Napi::CallbackInfo& info) {
    return view_.IsEmpty() ? info.Env().Undefined() : view_.Value();
  }
  Napi::Value fd(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), region_ && owned_ ? region_->fd() : -1);
  }
  Napi::Value gone(const Napi::CallbackInfo& info) {
    if (region_) gone_ = region_->checkGone();
    return Napi::Boolean::New(info.Env(), gone_);
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    if (!region_) return info.Env().Undefined();
    gone_ = region_->gone();
    // JavaScript sees length 0 from here on; batches that still run hold the mapping themselves.
    if (napi_detach_arraybuffer(info.Env(), buffer_.Value()) != napi_ok) throw Napi::Error::New(info.Env());
    buffer_.Reset();
    region_.reset();
    return info.Env().Undefined();
  }

  std::shared_ptr<Region> region_;
  RegionShape shape_;
  bool owned_ = false;
  bool gone_ = false;
  Napi::ObjectReference buffer_;
  Napi::ObjectReference view_;
};

Napi::Value createRegion(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const RegionShape shape = shapeOf(info[0]);
    return RegionObject::make(info.Env(), Region::create(shape, info[1].ToBoolean()), shape, true);
  });
}

Napi::Value mapRegionPath(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const RegionShape shape = shapeOf(info[1]);
    return RegionObject::make(info.Env(), Region::mapPath(text(info[0], "path"), shape), shape, false);
  });
}

Napi::Value mapRegionFd(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto fd = static_cast<int>(wholeNumber(info[0], "fd", INT32_MAX));
    RegionShape shape;
    try {
      shape = shapeOf(info[1]);
    } catch (...) {
      ::close(fd);
      throw;
    }
    return RegionObject::make(info.Env(), Region::mapFd(fd, shape), shape, false);
  });
}

Napi::Value closeFd(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto fd = static_cast<int>(wholeNumber(info[0], "fd", INT32_MAX));
    if (::close(fd) != 0 && errno == EBADF) throw Error(Code::InvalidArgument, "closeFd: not an open descriptor");
    return info.Env().Undefined();
  });
}

}  // namespace

std::shared_ptr<Region> regionOf(Napi::Value value, const std::string& name) {
  const bool is = value.IsObject() && value.As<Napi::Object>().InstanceOf(addonData(value.Env()).regionClass.Value());
  std::shared_ptr<Region> region;
  if (is) region = RegionObject::regionOf(value.As<Napi::Object>());
  if (!region) throw Error::ofField(name, "must be a MappedRegion that is not closed");
  return region;
}

uint64_t extentOf(Napi::Env env, const Bytes& memory, const Region* region) {
  if (region == nullptr || region->data() != memory.data) return memory.length;
  const bool whole = memory.length == visibleBytes(env, region->bytes(), region->rowBytes());
  return whole ? region->bytes() : memory.length;
}

void exportRegions(Napi::Env env, Napi::Object exports) {
  addonData(env).regionClass = Napi::Persistent(RegionObject::define(env));
  exports.Set("createRegion", Napi::Function::New(env, createRegion));
  exports.Set("mapRegionPath", Napi::Function::New(env, mapRegionPath));
  exports.Set("mapRegionFd", Napi::Function::New(env, mapRegionFd));
  exports.Set("closeFd", Napi::Function::New(env, closeFd));
}

}  // namespace kvferry::binding
