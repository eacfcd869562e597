// What JavaScript says of a device and of copies, checked.
#pragma once

#include <functional>
#include <optional>

#include "device/layout.h"
#include "napi/support.h"

namespace kvferry::binding {

/** OpenDeviceOptions of types.ts. */
struct DeviceOptions {
  /** Opens the memory. Throws Error. */
  std::function<std::unique_ptr<Device>()> open;
  std::optional<DeviceLayout> layout;
  std::vector<std::shared_ptr<Region>> hostRegions;
};

/** Throws Error INVALID_ARGUMENT that names the field. */
DeviceOptions deviceOptionsOf(Napi::Object options);

/** Of a Float64Array with `count` elements, all at places where a part fits. Throws Error INVALID_ARGUMENT. */
const double* hostOffsetsOf(Napi::Value value, uint32_t count, uint64_t partBytes, uint64_t hostBytes);

/** Of a Uint32Array with page numbers for `count` chunks of these groups, all of which are there. Throws Error INVALID_ARGUMENT. */
const uint32_t* blocksOf(Napi::Value value, const DeviceLayout& layout, const uint32_t* groups, uint32_t count);

}  // namespace kvferry::binding
