"""Direct mode for vLLM: an OffloadingSpec whose blocks lie in the server's memory (docs/direct-mode.md).

    "spec_name": "KvferrySpec", "spec_module_path": "kvferry_vllm", "block_size": 64, "kvferry": {"socket": "/run/kvferry/kvferry.sock"}
"""

from dataclasses import replace
from typing import Any

from vllm.utils.math_utils import round_up
from vllm.v1.kv_offload.base import OffloadingManager, OffloadingSpec, OffloadingWorker
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

from kvferry_vllm import metrics
from kvferry_vllm.direct.devices import USE_TIER_MODE, device_of
from kvferry_vllm.direct.layout import layout_of
from kvferry_vllm.direct.manager import KvferryManager
from kvferry_vllm.direct.options import parse_options
from kvferry_vllm.direct.worker import KvferryWorker
from kvferry_vllm.scheduler_side import GROUP_INDEX_BYTES, greeting, identity, wants_events
from kvferry_vllm.vllm_config import config_value, find_vllm_config, hash_bytes


class KvferrySpec(OffloadingSpec):
    """Any number of KV cache groups, tensor parallelism and, where all ranks have as many bytes a block, pipeline parallelism.

    Raises:
        ValueError: for options and arrangements that direct mode has not, with what to do instead.
    """

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:
        return metrics.metric_definitions()

    def __init__(self, config: Any) -> None:
        self._options = parse_options(config.extra_config)
        super().__init__(config)
        self._vllm_config = find_vllm_config()
        nodes = config_value(self._vllm_config, "parallel_config.nnodes_within_dp") or 1
        if nodes > 1:
            raise ValueError(f"kvferry direct mode: the engine's workers are on {nodes} nodes, not all on the server's; {USE_TIER_MODE}.")
        if config.worker_kv_bytes_per_block <= 0:
            raise ValueError(f"kvferry direct mode: this model's KV cache has no blocks of a fixed size; {USE_TIER_MODE}.")
        # vLLM's worker reads this one: all ranks but the first then store nothing.
        self.replicated_layout = bool(config.replicated_layout)
        parallel = config.parallel
        self._parts = 1 if self.replicated_layout else parallel.world_size
        self._part_bytes = config.worker_kv_bytes_per_block * self.blocks_per_chunk
        self._block_bytes = round_up(self._parts * self._part_bytes, SharedOffloadRegion.BLOCK_SIZE_ALIGNMENT)
        self._manager: KvferryManager | None = None
        self._worker: KvferryWorker | None = None

    def get_manager(self) -> OffloadingManager:
        if self._manager is None:
            emits_events = wants_events(self._options, self)
            hello = {
                **self._hello(identity(self, self._options, self._vllm_config)),
                "events": True,  # what has been removed is stored again
                "direct": {"role": "scheduler", **self._engine_fields(), "workers": self.config.parallel.world_size},
            }
            self._manager = KvferryManager(self._options, hello, self._vllm_config, len(self.config.groups), emits_events)
        return self._manager

    def get_worker(self, kv_caches: Any) -> OffloadingWorker:
        if self._worker is None:
            layout = layout_of(kv_caches, self.blocks_per_chunk)
            if layout.part_bytes > self._part_bytes:
                raise ValueError(
                    f"kvferry direct mode: this worker's KV cache has {layout.part_bytes} bytes a chunk, not {self._part_bytes} as "
                    f"the scheduler says (pipeline stages of different size?); {USE_TIER_MODE}."
                )
            rank = self.config.parallel.rank
            device = device_of(layout.tensors[0].device.type, self._vllm_config)
            hello = {
                **self._hello(self._shared_identity()),
                "events": False,
                "direct": {
                    "role": "worker",
                    **self._engine_fields(),
                    "part": 0 if self.replicated_layout else rank,
                    "stores": not self.replicated_layout or rank == 0,
                    "memory": device.memory(layout.storages),
                    **layout.fields,
                },
            }
            key_bytes = hash_bytes(self._vllm_config) + GROUP_INDEX_BYTES
            part = hello["direct"]["part"]
            self._worker = KvferryWorker(self._options, hello, key_bytes, layout, device, part, self._part_bytes)
        return self._worker

    def _hello(self, identity_fields: dict[str, Any]) -> dict[str, Any]:
        return {**greeting(), **identity_fields, "blockBytes": self._block_bytes}

    def _engine_fields(self) -> dict[str, Any]:
        # A user may give engines one id, or the same one after a restart; the instance's is new each time, and the same in all processes.
        instance = config_value(self._vllm_config, "instance_id") or ""
        return {"engine": f"{self.config.engine_id}-{instance}"[-128:], "parts": self._parts, "partBytes": self._part_bytes}

    def _shared_identity(self) -> dict[str, Any]:
        """What the scheduler says of whose bytes these are. It knows the layers of the first rank, which tells it to the others."""
        world_size, rank = self.config.parallel.world_size, self.config.parallel.rank
        own = identity(_AsFirstRank(self), self._options, self._vllm_config) if rank == 0 else None
        if world_size == 1:
            assert own is not None
            return own
        return _world_group().broadcast_object(own, src=0)


class _AsFirstRank:
    """The spec as vLLM's scheduler has it, whose rank is 0."""

    def __init__(self, spec: KvferrySpec) -> None:
        self._spec = spec
        self.config = replace(spec.config, parallel=replace(spec.config.parallel, rank=0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spec, name)


def _world_group() -> Any:
    """All workers of this engine."""
    from vllm.distributed.parallel_state import get_inner_dp_world_group, get_world_group

    try:
        return get_inner_dp_world_group()
    except AssertionError:
        return get_world_group()
