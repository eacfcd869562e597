"""The `vllm.general_plugins` entry point: makes `{"type": "kvferry"}` a tier that vLLM knows."""

import logging

TIER_TYPE = "kvferry"

logger = logging.getLogger("vllm.kvferry")


def register() -> None:
    """Registers the tier. vLLM calls this in every process and may call it more than once."""
    try:
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
    except ImportError:
        logger.warning("kvferry: this vLLM has no tiered KV offloading (0.30 or newer has); the tier is not registered")
        return
    if TIER_TYPE not in SecondaryTierFactory._registry:
        SecondaryTierFactory.register_tier(TIER_TYPE, "kvferry_vllm", "KvferryTier")
