// RecoveredDrive of types.ts.
#pragma once

#include "storage/segment_drive.h"
#include "napi/engine_handle.h"

namespace kvferry::binding {

/** A promise of what the drive holds; all threads of the engine look at segments. */
Napi::Value recoverDrive(Napi::Env env, const std::shared_ptr<EngineHandle>& engine,
                         const std::shared_ptr<SegmentDrive>& drive);

}  // namespace kvferry::binding
