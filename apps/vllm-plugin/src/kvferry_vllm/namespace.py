"""The namespace of an engine: everything that decides what the bytes of its chunks mean (docs/architecture.md)."""

import json
import os
from typing import Any

from kvferry_vllm.fingerprint import fingerprint
from kvferry_vllm.vllm_config import config_value

FORMAT_VERSION = 1
ENGINE = "vllm"


def namespace_fields(
    offloading_config: Any, vllm_config: Any | None, vllm_version: str, tenant: str = "", weights: str | None = None
) -> dict[str, Any]:
    """The thirteen fields of HELLO's `namespace`.

    Args:
        offloading_config: vLLM's OffloadingConfig.
        vllm_config: the VllmConfig, or None where it cannot be seen.
        weights: a fingerprint that overrides the computed one.
    """
    model, cache = offloading_config.model, offloading_config.cache
    dtype = _short(config_value(vllm_config, "model_config.dtype")) or model.dtype
    return {
        "model": model.name,
        "weights": weights or _weights(model.name, dtype, vllm_config),
        "dtype": dtype,
        "kvDtype": _short(model.dtype),
        "layout": layout_name(offloading_config, vllm_config),
        "tokensPerHash": cache.tokens_per_hash,
        "blocksPerChunk": cache.blocks_per_chunk,
        "groups": [
            {"tokensPerBlock": group.tokens_per_block, "layers": list(group.layer_names)}
            for group in offloading_config.groups
        ],
        "parallel": parallel_fields(offloading_config),
        "engine": ENGINE,
        "engineVersion": ".".join(vllm_version.split("+")[0].split(".")[:2]),
        "formatVersion": FORMAT_VERSION,
        "tenant": tenant,
    }


def layout_name(offloading_config: Any, vllm_config: Any | None) -> str:
    """Names the order of the bytes within a chunk: device, KV cache layout, attention backend, kind of row."""
    parts = ["vllm-tier", _device(), offloading_config.kv_cache_layout or "default"]
    backend = config_value(vllm_config, "attention_config.backend")
    if backend is not None:
        parts.append(f"attention={getattr(backend, 'name', backend)}")
    if getattr(offloading_config, "canonical_layout", False):
        parts.append(f"canonical={_canonical_format(offloading_config.kv_cache_layout)}")
    if getattr(offloading_config, "replicated_layout", False):
        parts.append("replicated")
    return ":".join(parts)


def parallel_fields(offloading_config: Any) -> dict[str, int] | None:
    """Where the row depends on the workers' arrangement, that arrangement; else None.

    vLLM's FileMapper also calls a direct row of head-sharded pages agnostic. A row holds worker after worker, each with
    all its layers, so with more than one worker and more than one layer its bytes do depend on how many there are.
    Only rows that are one copy (canonical, replicated) or come from one worker are independent.
    """
    parallel = offloading_config.parallel
    canonical = getattr(offloading_config, "canonical_layout", False)
    replicated = getattr(offloading_config, "replicated_layout", False)
    if replicated or (parallel.is_parallelism_agnostic and (canonical or parallel.world_size == 1)):
        return None
    return {
        "tp": parallel.tp_size,
        "pp": parallel.pp_size,
        "pcp": parallel.pcp_size,
        "dcp": parallel.dcp_size,
        "rank": parallel.rank,
    }


def vllm_fs_names(offloading_spec: Any) -> dict[str, Any]:
    """How vLLM's own `fs` tier would name this cache, by vLLM's own code: for the layout `vllm-fs`."""
    from vllm.v1.kv_offload.file_mapper import FileMapper

    mapper = FileMapper.from_offloading_spec(
        root_dir="",
        offloading_spec=offloading_spec,
        blocks_per_file=offloading_spec.blocks_per_chunk,
        parallel_agnostic=True,
    )
    return {
        "base": os.path.basename(mapper.base_path),
        "rank": mapper.rank,
        "config": json.dumps(mapper.get_run_config(), indent=2, sort_keys=True),
    }


def _weights(model: str, dtype: str, vllm_config: Any | None) -> str:
    load_format = config_value(vllm_config, "load_config.load_format")
    return fingerprint(
        config_value(vllm_config, "model_config.model") or model,
        revision=config_value(vllm_config, "model_config.revision"),
        load_format=None if load_format is None else str(getattr(load_format, "value", load_format)),
        download_dir=config_value(vllm_config, "load_config.download_dir"),
        dtype=dtype,
        options={
            "quantization": config_value(vllm_config, "model_config.quantization"),
            "hf_overrides": _overrides(config_value(vllm_config, "model_config.hf_overrides")),
        },
    )


def _overrides(overrides: Any | None) -> Any:
    """Overrides may be a function, whose address must not get into a hash."""
    return overrides if isinstance(overrides, dict) else getattr(overrides, "__qualname__", None)


def _canonical_format(kv_cache_layout: str | None) -> str:
    from vllm.distributed.kv_transfer.kv_connector.v1.offloading.canonical_mapping import canonical_format_id

    return canonical_format_id(kv_cache_layout)


def _device() -> str:
    from vllm.platforms import current_platform

    return current_platform.device_type or "unknown"


def _short(dtype: Any | None) -> str:
    return "" if dtype is None else str(dtype).removeprefix("torch.")
