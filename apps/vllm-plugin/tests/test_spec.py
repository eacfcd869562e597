"""The CPU worker against a plain account of which block is where."""

import itertools

import numpy as np
import pytest
import torch
from helpers import BLOCK_BYTES
from vllm.v1.kv_offload.base import (
    CanonicalKVCacheRef,
    CanonicalKVCaches,
    CanonicalKVCacheTensor,
    GPULoadStoreSpec,
)
from vllm.v1.kv_offload.cpu.common import CPULoadStoreSpec
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

from kvferry_vllm.spec import CpuWorker

PAGE = 512
_names = itertools.count()


@pytest.fixture
def worker():
    """Two groups over three tensors; the first tensor belongs to both, as in hybrid models, with a padded page."""
    tensors = [torch.randint(-128, 127, (32, PAGE), dtype=torch.int8) for _ in range(3)]
    caches = CanonicalKVCaches(
        [CanonicalKVCacheTensor(each, PAGE) for each in tensors],
        [
            [CanonicalKVCacheRef(0, PAGE), CanonicalKVCacheRef(1, PAGE)],
            [CanonicalKVCacheRef(0, PAGE - 64), CanonicalKVCacheRef(2, PAGE)],
        ],
    )
    import os

    name = f"kvferry-spec-{os.getpid()}-{next(_names)}"
    region = SharedOffloadRegion(name, 16, 0, 2 * BLOCK_BYTES, 3 * PAGE * 2)
    worker = CpuWorker(caches, 2, region)
    worker.tensors = tensors
    yield worker
    worker.shutdown()


def test_what_is_stored_comes_back_in_other_blocks(worker):
    before = [each.clone() for each in worker.tensors]
    source = GPULoadStoreSpec([3, 4, 5, 6, 10, 11], [4, 2], [0, 2])
    worker.submit_store(1, source, CPULoadStoreSpec([7, 2, 9]))
    for each in worker.tensors:
        each.zero_()
    worker.submit_load(2, CPULoadStoreSpec([7, 2, 9]), GPULoadStoreSpec([20, 21, 22, 23, 25, 26], [4, 2], [0, 2]))
    for old, new in zip([3, 4, 5, 6], [20, 21, 22, 23]):
        assert (worker.tensors[0][new] == before[0][old]).all() and (worker.tensors[1][new] == before[1][old]).all()
    for old, new in zip([10, 11], [25, 26]):
        assert (worker.tensors[0][new][: PAGE - 64] == before[0][old][: PAGE - 64]).all()
        assert not worker.tensors[0][new][PAGE - 64 :].any()  # padding is not anyone's data
        assert (worker.tensors[2][new] == before[2][old]).all()
    first, second = worker.get_finished()
    assert first.job_id == 1 and first.success and first.transfer_size == second.transfer_size == 4 * 2 * PAGE + 2 * (2 * PAGE - 64)


def test_a_load_may_begin_inside_a_chunk(worker):
    before = worker.tensors[1].clone()
    worker.submit_store(1, GPULoadStoreSpec([0, 1, 2, 3], [4, 0], [0, 0]), CPULoadStoreSpec([5, 6]))
    worker.tensors[1].zero_()
    worker.submit_load(2, CPULoadStoreSpec([5, 6]), GPULoadStoreSpec([11, 12, 13], [3, 0], [1, 0]))
    assert (worker.tensors[1][[11, 12, 13]] == before[[1, 2, 3]]).all()
    assert not worker.tensors[1][:11].any()
    assert np.all([each.success for each in worker.get_finished()])


def test_the_canonical_layout_is_refused():
    from helpers import offloading_config

    from kvferry_vllm import KvferryCpuSpec

    with pytest.raises(ValueError, match="canonical_layout"):
        KvferryCpuSpec(offloading_config(canonical_layout=True))
