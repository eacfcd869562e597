"""kvferry for vLLM: a secondary tier that keeps KV cache on storage, direct mode, and the spec that lets CPU-only vLLM use tiers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvferry_vllm.direct.spec import KvferrySpec
    from kvferry_vllm.spec import KvferryCpuSpec
    from kvferry_vllm.tier import KvferryTier

__version__ = "0.1.0"
__all__ = ["KvferryCpuSpec", "KvferrySpec", "KvferryTier", "__version__"]

_HOMES = {
    "KvferryTier": "kvferry_vllm.tier",
    "KvferrySpec": "kvferry_vllm.direct.spec",
    "KvferryCpuSpec": "kvferry_vllm.spec",
}


def __getattr__(name: str) -> Any:
    """vLLM resolves classes by `getattr(module, name)`. Lazily, so that the protocol client needs no vLLM."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kvferry_vllm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
