"""What the tests share: a tier over a small real region, and time that is waited for."""

import itertools
import time
from types import SimpleNamespace

import numpy as np
from vllm.v1.kv_offload.base import ReqContext
from vllm.v1.kv_offload.config import (
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.base import TransferJob

BLOCK_BYTES = 4096
SLOTS = 64
_engines = itertools.count()


def offloading_config(**changes):
    values = {
        "groups": (OffloadingGroupConfig(tokens_per_block=32, layer_names=("l0", "l1"), group_id=0),),
        "worker_kv_bytes_per_block": BLOCK_BYTES,
        "enable_kv_cache_events": True,
        "extra_config": {},
        "engine_id": f"kvferry-test-{time.time_ns()}-{next(_engines)}",
        "model": OffloadingModelConfig(name="some/model", dtype="bfloat16"),
        "cache": OffloadingCacheConfig(tokens_per_hash=32, blocks_per_chunk=1),
        "parallel": OffloadingParallelConfig(
            rank=0, world_size=1, tp_size=1, pp_size=1, pcp_size=1, dcp_size=1, data_parallel_index=0,
            data_parallel_size=1, data_parallel_rank_local=None, is_parallelism_agnostic=True,
        ),
        "kv_cache_layout": "LBHNC",
    }  # fmt: skip
    values.update(changes)
    return OffloadingConfig(**values)


class TierHarness:
    """A tier as vLLM builds it, with a region of its own. `rows` is what vLLM's workers would see."""

    def __init__(self, socket, slots=SLOTS, block_bytes=BLOCK_BYTES, events=True, **options):
        from kvferry_vllm import KvferryTier

        config = offloading_config()
        self.region = SharedOffloadRegion(config.engine_id, slots, None, block_bytes, block_bytes)
        self.view = self.region.create_kv_memoryview()
        spec = SimpleNamespace(
            config=config,
            _scheduler_mmap=self.region,
            blocks_per_chunk=1,
            kv_events_config=SimpleNamespace(enable_kv_cache_events=events),
        )
        options.setdefault("weights", "ab" * 32)
        self.tier = KvferryTier(
            offloading_spec=spec, primary_kv_view=self.view, tier_type="kvferry", socket=str(socket), **options
        )
        self.rows = np.asarray(self.view)
        self._job_ids = itertools.count()
        self._requests = itertools.count()

    def close(self):
        self.tier.shutdown()
        self.rows = None
        self.view.release()
        self.region.cleanup()

    def request(self, keys=()):
        context = ReqContext(req_id=f"r{next(self._requests)}")
        if hasattr(context, "_offload_key_positions"):
            for position, key in enumerate(keys):
                context.set_offload_key_position(key, position)
        return context

    def job(self, keys, slots, load, request=None):
        job = TransferJob(next(self._job_ids), list(keys), np.asarray(slots), load, request or self.request(keys))
        (self.tier.submit_load if load else self.tier.submit_store)(job)
        return job

    def result(self, job, timeout_s=5.0):
        found = {}

        def collect():
            found.update({each.job_id: each for each in self.tier.get_finished_jobs()})
            return job.job_id in found

        wait_for(collect, timeout_s)
        return found[job.job_id]

    def store(self, keys, slots):
        return self.result(self.job(keys, slots, load=False))

    def load(self, keys, slots, request=None):
        return self.result(self.job(keys, slots, load=True, request=request))

    def lookup_all(self, keys, request=None):
        request = request or self.request(keys)
        return [self.tier.lookup(key, request) for key in keys]

    def step(self):
        from vllm.v1.kv_offload.base import ScheduleEndContext

        self.tier.get_finished_jobs()
        self.tier.on_schedule_end(ScheduleEndContext((), ()))

    def settle(self, keys, request, timeout_s=3.0):
        """Lookups step after step, as the scheduler does it, until none answers RETRY."""
        from vllm.v1.kv_offload.base import LookupResult

        answers = []

        def settled():
            answers[:] = self.lookup_all(keys, request)
            self.step()
            return LookupResult.RETRY not in answers

        wait_for(settled, timeout_s)
        return answers


def keys_of(count, start=0, key_bytes=36):
    return [(start + i).to_bytes(key_bytes - 4, "big") + bytes(4) for i in range(count)]


def wait_for(condition, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {timeout_s} s")
        time.sleep(0.001)
