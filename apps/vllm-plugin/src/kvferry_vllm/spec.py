"""Tiered KV offloading for CPU-only vLLM, which upstream refuses for want of a worker.

    "spec_name": "KvferryCpuSpec", "spec_module_path": "kvferry_vllm"

The engine's KV cache and the offload region are both host memory, so "device to host" is a memory copy. It is made when
it is submitted, in the worker, and is finished when `submit_*` returns: a transfer never overlaps the model's work, which
needs the same cores.
"""

import ctypes
import time
from typing import Any

import numpy as np
import torch
from vllm.platforms import current_platform
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class KvferryCpuSpec(TieringOffloadingSpec):
    """vLLM's TieringOffloadingSpec with a worker for CPU engines; every option of the original holds.

    Any number of KV cache groups, tensors that groups share, padded pages and tensor parallelism work as in the original.
    The canonical layout (`canonical_layout`) does not: it re-orders heads, which plain copies cannot.
    """

    def __init__(self, config: Any) -> None:
        if getattr(config, "canonical_layout", False):
            raise ValueError("KvferryCpuSpec: remove 'canonical_layout' from kv_connector_extra_config; it needs a GPU")
        super().__init__(config)

    def get_worker(self, kv_caches: Any) -> OffloadingWorker:
        if self._worker is None:
            if not current_platform.is_cpu():
                raise ValueError("KvferryCpuSpec is for CPU engines; on a GPU use spec_name TieringOffloadingSpec")
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=0 if self.replicated_layout else self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            try:
                self._worker = CpuWorker(kv_caches, self.blocks_per_chunk, region)
            except Exception:
                region.cleanup()
                raise
        return self._worker


class CpuWorker(OffloadingWorker):
    """Copies blocks between the engine's KV tensors and the rows of the region.

    Every tensor has a column of the region: chunk c of tensor t is `blocks_per_chunk` pages at row c. A group's blocks are
    consecutive blocks of one request, beginning at block `block_indices[group]`, which may be inside a chunk.
    """

    def __init__(self, kv_caches: Any, blocks_per_chunk: int, region: SharedOffloadRegion) -> None:
        self._blocks_per_chunk = blocks_per_chunk
        self._region: SharedOffloadRegion | None = region
        self._group_refs = kv_caches.group_data_refs
        self._engine: list[torch.Tensor] = []
        self._rows: list[torch.Tensor] = []
        self._page_bytes: list[int] = []
        for each in kv_caches.tensors:
            page_bytes = each.page_size_bytes
            self._engine.append(each.tensor.view(torch.int8).view((-1, page_bytes)))
            self._rows.append(region.create_next_worker_view(page_bytes * blocks_per_chunk))
            self._page_bytes.append(page_bytes)
        self._finished: list[TransferResult] = []

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self._copy(job_id, src_spec, dst_spec.block_ids, to_region=True)

    # `expedited` since 0.33: copies are always immediate.
    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any, expedited: bool = False) -> bool:
        return self._copy(job_id, dst_spec, src_spec.block_ids, to_region=False)

    def get_finished(self) -> list[TransferResult]:
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Nothing is ever under way."""

    def shutdown(self) -> None:
        self._engine.clear()
        self._rows.clear()
        if self._region is not None:
            self._region.cleanup()
            self._region = None

    def _copy(self, job_id: int, blocks: Any, chunk_ids: np.ndarray, to_region: bool) -> bool:
        started = time.perf_counter()
        per_chunk = self._blocks_per_chunk
        moved = block_at = chunk_at = 0
        for group, (count, first) in enumerate(zip(blocks.group_sizes, blocks.block_indices)):
            if count == 0:
                continue
            skip = first % per_chunk
            chunks = -(-(count + skip) // per_chunk)
            place = np.arange(skip, skip + count)
            rows = chunk_ids[chunk_at : chunk_at + chunks].astype(np.int64)[place // per_chunk]
            ids = blocks.block_ids[block_at : block_at + count].astype(np.int64)
            for ref in self._group_refs[group]:
                self._copy_pages(ref, ids, rows, place % per_chunk, to_region)
                moved += count * ref.page_size_bytes
            block_at += count
            chunk_at += chunks
        assert block_at == len(blocks.block_ids) and chunk_at == len(chunk_ids)
        self._finished.append(TransferResult(job_id, True, moved, time.perf_counter() - started))
        return True

    def _copy_pages(self, ref: Any, ids: np.ndarray, rows: np.ndarray, within: np.ndarray, to_region: bool) -> None:
        engine, row = self._engine[ref.tensor_idx], self._rows[ref.tensor_idx]
        page_bytes = self._page_bytes[ref.tensor_idx]
        engine_at = engine.data_ptr() + ids * engine.stride(0)
        region_at = row.data_ptr() + rows * row.stride(0) + within * page_bytes
        source, target = (engine_at, region_at) if to_region else (region_at, engine_at)
        for to, from_ in zip(target.tolist(), source.tolist()):
            ctypes.memmove(to, from_, ref.page_size_bytes)
