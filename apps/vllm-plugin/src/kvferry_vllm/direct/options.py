"""What can be set for direct mode: `kv_connector_extra_config`, of which vLLM reads the top and kvferry the map `kvferry`."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kvferry_vllm.config import TierConfig, parse_config

SECTION = "kvferry"
_REFUSED = {
    "secondary_tiers": "direct mode has no tiers in the engine; name them in the server's configuration and remove this",
    "canonical_layout": "it re-orders heads, which direct mode does not; remove it, or use tier mode (KvferryTier)",
}


def parse_options(extra_config: Mapping[str, Any]) -> TierConfig:
    """Checks `kv_connector_extra_config`. The options in `kvferry` are those of `TierConfig`.

    Options at the top that are none of ours are vLLM's own, or another version's: they are left alone.

    Raises:
        ValueError: naming the field, what is wrong with it and what to write instead.
    """
    for name, why in _REFUSED.items():
        if extra_config.get(name):
            raise ValueError(f"kvferry direct mode: option '{name}': {why}.")
    for name in (field.name for field in fields(TierConfig)):
        if name in extra_config:
            raise ValueError(
                f"kvferry direct mode: option '{name}' is beside '{SECTION}'; write it inside: "
                f'"{SECTION}": {{"{name}": …}}.'
            )
    options = extra_config.get(SECTION, {})
    if not isinstance(options, Mapping):
        raise ValueError(
            f"kvferry direct mode: option '{SECTION}' is {options!r}; write a map, such as "
            f'"{SECTION}": {{"socket": "/run/kvferry/kvferry.sock"}}.'
        )
    return parse_config(dict(options))
