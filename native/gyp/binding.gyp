{
  "targets": [
    {
      "target_name": "kvferry",
      "sources": ["<!@(node -p \"require('node:fs').readdirSync('../src', {recursive: true}).filter((f) => f.endsWith('.cc')).sort().map((f) => '../src/' + f).join(' ')\")"],
      "include_dirs": ["../src", "<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["NAPI_VERSION=8", "NAPI_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "_FILE_OFFSET_BITS=64"],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
      "cflags_cc": ["-std=gnu++20", "-O2", "-g1", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-cast-function-type"],
      "libraries": ["-ldl"],
      "ldflags": ["-static-libstdc++", "-static-libgcc", "-Wl,--version-script=<(module_root_dir)/exports.map", "-Wl,-z,now", "-Wl,-z,nodelete", "-Wl,--gc-sections"]
    }
  ]
}
