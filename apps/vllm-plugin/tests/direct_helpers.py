"""An engine in direct mode without vLLM's model: a manager, one worker a rank, and the steps of vLLM's scheduler between them."""

import itertools
import pickle
from dataclasses import replace

import torch
from helpers import offloading_config, wait_for
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
    LookupResult,
    ReqContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.config import OffloadingGroupConfig

PAGE = 512
PAGES = 64
PER_CHUNK = 2
_jobs = itertools.count()
_requests = itertools.count()


def caches_of(seed):
    """Two tensors of one storage, with pages that are farther apart than they are long, and one of its own; two groups, the second with a padded page."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randint(-128, 127, (PAGES * 3 * PAGE,), dtype=torch.int8, generator=generator)
    first = shared.as_strided((PAGES, PAGE), (3 * PAGE, 1), 0)
    second = shared.as_strided((PAGES, PAGE), (3 * PAGE, 1), PAGE)
    third = torch.randint(-128, 127, (PAGES, PAGE), dtype=torch.int8, generator=generator)
    return CanonicalKVCaches(
        [CanonicalKVCacheTensor(each, PAGE) for each in (first, second, third)],
        [
            [CanonicalKVCacheRef(0, PAGE), CanonicalKVCacheRef(1, PAGE)],
            [CanonicalKVCacheRef(0, PAGE - 64), CanonicalKVCacheRef(2, PAGE)],
        ],
    )


class DirectHarness:
    """
    Args:
        groups: KV cache groups of the model, 1 or 2. The tensors are the same.
    """

    def __init__(self, socket, workers=1, groups=2, replicated=False, events=True, seed=0, **options):
        from kvferry_vllm import KvferrySpec

        options.setdefault("weights", "ab" * 32)
        config = offloading_config(
            groups=tuple(OffloadingGroupConfig(tokens_per_block=32, layer_names=(f"l{i}",), group_id=i) for i in range(groups)),
            worker_kv_bytes_per_block=3 * PAGE,
            extra_config={"spec_name": "KvferrySpec", "kvferry": {"socket": str(socket), **options}},
            enable_kv_cache_events=events,
        )
        config = replace(
            config,
            cache=replace(config.cache, blocks_per_chunk=PER_CHUNK),
            parallel=replace(config.parallel, world_size=workers, tp_size=workers),
            replicated_layout=replicated,
        )
        self.specs = [KvferrySpec(replace(config, parallel=replace(config.parallel, rank=rank))) for rank in range(workers)]
        self.caches = [caches_of(seed + (0 if replicated else rank)) for rank in range(workers)]
        for caches in self.caches:
            del caches.group_data_refs[groups:]
        for spec in self.specs:
            spec._shared_identity = lambda first=self.specs[0]: {"namespace": {"model": first.config.model.name}, "vllmFs": None}
        self.workers = [spec.get_worker(caches) for spec, caches in zip(self.specs, self.caches)]
        self.manager = self.specs[0].get_manager()
        self.groups, self.replicated = groups, replicated

    def close(self):
        for each in (*self.workers, self.manager):
            each.shutdown()

    def request(self, keys=()):
        context = ReqContext(req_id=f"r{next(_requests)}")
        if hasattr(context, "_offload_key_positions"):
            for position, key in enumerate(keys):
                context.set_offload_key_position(key, position)
        self.manager.on_new_request(context)
        return context

    def step(self):
        """The end of vLLM's step, and the workers' poll. Returns the jobs that have ended on all workers."""
        self.manager.on_schedule_end(ScheduleEndContext((), ()))
        ended = [{each.job_id for each in worker.get_finished()} for worker in self.workers]
        return ended

    def settle(self, keys, request, timeout_s=5.0):
        """Lookups step after step, as the scheduler does it, until none is on its way."""
        answers = []

        def settled():
            answers[:] = [self.manager.lookup(key, request) for key in keys]
            if not {LookupResult.RETRY, LookupResult.HIT_PENDING} & set(answers):
                return True
            self.step()
            return False

        wait_for(settled, timeout_s)
        return answers

    def run(self, job_id, timeout_s=10.0):
        """Steps until the job has ended on every worker."""
        left = set(range(len(self.workers)))

        def ended():
            for rank, jobs in enumerate(self.step()):
                if job_id in jobs:
                    left.discard(rank)
            return not left

        wait_for(ended, timeout_s)

    def blocks(self, blocks, first=0, group=0):
        sizes = [len(blocks) if each == group else 0 for each in range(self.groups)]
        return GPULoadStoreSpec(blocks, sizes, [first if each == group else 0 for each in range(self.groups)])

    def begin_store(self, keys, gpu_spec, request=None):
        """Returns the job's id, or None where there is nothing to store."""
        request = request or self.request(keys)
        output = self.manager.prepare_store(keys, request)
        if not output.keys_to_store:
            return None
        job_id = next(_jobs)
        spec = pickle.loads(pickle.dumps(output.store_spec))
        for rank, worker in enumerate(self.workers):
            if self.replicated and rank:
                continue
            assert worker.submit_store(job_id, gpu_spec, spec)
        return job_id

    def store(self, keys, gpu_spec):
        request = self.request(keys)
        job_id = self.begin_store(keys, gpu_spec, request)
        if job_id is None:
            return
        left = self.workers[:1] if self.replicated else self.workers
        for worker in left:
            worker.wait({job_id})
        self.manager.complete_store(keys, request)
        wait_for(lambda: (self.step(), not self.manager.has_pending_work())[1])

    def begin_load(self, keys, gpu_spec, request):
        job_id = next(_jobs)
        spec = pickle.loads(pickle.dumps(self.manager.prepare_load(keys, request)))
        for worker in self.workers:
            assert worker.submit_load(job_id, spec, gpu_spec)
        return job_id

    def load(self, keys, gpu_spec, request):
        self.run(self.begin_load(keys, gpu_spec, request))
        self.manager.complete_load(keys, request)
        self.step()

    def pages(self, group, blocks):
        """The bytes of a group's pages, worker after worker."""
        refs = self.caches[0].group_data_refs[group]
        return [
            caches.tensors[ref.tensor_idx].tensor[block, : ref.page_size_bytes].clone()
            for caches in self.caches
            for ref in refs
            for block in blocks
        ]

    def wipe(self):
        for caches in self.caches:
            for each in caches.tensors:
                each.tensor.zero_()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
