"""vLLM's own configuration, as far as a tier can see it.

A tier is given the OffloadingConfig, which leaves out the load format, the revision, the quantization and the hash
algorithm. All are part of what the bytes mean. vLLM has no official way to them from here, so we look where it keeps
its configuration; where that fails, namespace and fingerprint fall back to what they can see.
"""

import sys
from typing import Any

FRAMES_MAX = 64


def find_vllm_config() -> Any | None:
    """The VllmConfig that this tier is being built under, or None."""
    try:
        from vllm.config import VllmConfig
    except ImportError:
        return None
    try:
        from vllm.config import get_current_vllm_config_or_none

        config = get_current_vllm_config_or_none()
        if config is not None:
            return config
    except ImportError:
        pass
    # The connector's constructor, a few calls up, has it as an argument.
    frame = sys._getframe(1)
    for _ in range(FRAMES_MAX):
        candidate = frame.f_locals.get("vllm_config")
        if isinstance(candidate, VllmConfig):
            return candidate
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return None


def config_value(config: Any | None, path: str) -> Any | None:
    """`config.a.b` for "a.b"; None as soon as a part is missing, since versions differ."""
    for name in path.split("."):
        if config is None:
            return None
        config = getattr(config, name, None)
    return config


def hash_bytes(config: Any | None) -> int:
    """Bytes of a block hash under the algorithm that is set: 32 for SHA-256 (the default), 16 for xxHash."""
    algorithm = config_value(config, "cache_config.prefix_caching_hash_algo")
    return 16 if isinstance(algorithm, str) and algorithm.startswith("xxhash") else 32
