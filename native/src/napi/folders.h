// Folders of a store as JavaScript looks at them.
#pragma once

#include "storage/file_store.h"
#include "napi/blocks.h"
#include "napi/engine_handle.h"

namespace kvferry::binding {

/** (folders, touch, ticket) */
Napi::Value stampFolders(const std::shared_ptr<EngineHandle>& engine, const std::shared_ptr<FileStore>& store,
                         const Napi::CallbackInfo& info);
/** (folder, ticket) */
Napi::Value keysIn(const std::shared_ptr<EngineHandle>& engine, const std::shared_ptr<FileStore>& store,
                   const Napi::CallbackInfo& info);

}  // namespace kvferry::binding
