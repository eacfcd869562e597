"""The `vllm.general_plugins` entry point: makes `{"type": "kvferry"}` a tier that vLLM knows, and `"spec_name": "KvferrySpec"` a spec."""

import logging

TIER_TYPE = "kvferry"
SPEC_NAME = "KvferrySpec"

logger = logging.getLogger("vllm.kvferry")


def register() -> None:
    """Registers the tier and direct mode's spec. vLLM calls this in every process and may call it more than once."""
    try:
        from vllm.v1.kv_offload.factory import OffloadingSpecFactory
        from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory
    except ImportError:
        logger.warning("kvferry: this vLLM has no tiered KV offloading (0.30 or newer has); kvferry is not registered")
        return
    if TIER_TYPE not in SecondaryTierFactory._registry:
        SecondaryTierFactory.register_tier(TIER_TYPE, "kvferry_vllm", "KvferryTier")
    if SPEC_NAME not in OffloadingSpecFactory._registry:
        OffloadingSpecFactory.register_spec(SPEC_NAME, "kvferry_vllm", SPEC_NAME)
