"""Where the engine's KV pages are, and which of them make up a chunk.

A chunk's part of one worker is tensor after tensor, of each `blocks_per_chunk` pages: as vLLM's offload region has it, and
`native/src/types.ts` (`DeviceLayout`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvferry_vllm.wire import NO_BLOCK


@dataclass(frozen=True)
class Layout:
    """
    Attributes:
        storages: the memories, each once: KV tensors may share one.
        tensors: each tensor's pages, (pages, page bytes), int8.
        fields: `tensors`, `groups` and `blocksPerChunk` of HELLO.
        groups: of each group, (tensor, bytes of a page that it uses).
        tensor_at: where each tensor's pages begin in a part, bytes.
        part_bytes: of a chunk.
    """

    storages: list[torch.UntypedStorage]
    tensors: list[torch.Tensor]
    fields: dict[str, Any]
    groups: list[list[tuple[int, int]]]
    tensor_at: list[int]
    part_bytes: int
    blocks_per_chunk: int


def layout_of(kv_caches: Any, blocks_per_chunk: int) -> Layout:
    """The layout of vLLM's CanonicalKVCaches.

    Raises:
        ValueError: for tensors of another form than vLLM 0.30 to 0.33 give.
    """
    storages: list[torch.UntypedStorage] = []
    memory_of: dict[int, int] = {}
    tensors, described, tensor_at, part_bytes = [], [], [], 0
    for each in kv_caches.tensors:
        tensor, page_bytes = each.tensor, each.page_size_bytes
        if tensor.dtype != torch.int8 or tensor.ndim != 2 or tensor.stride(1) != 1 or tensor.stride(0) < page_bytes:
            raise ValueError(
                f"kvferry: a KV tensor of {tensor.dtype}, shape {tuple(tensor.shape)} and strides {tensor.stride()} is not "
                "what vLLM 0.30 to 0.33 give; use tier mode (KvferryTier) with this vLLM"
            )
        storage = tensor.untyped_storage()
        memory = memory_of.setdefault(storage.data_ptr(), len(storages))
        if memory == len(storages):
            storages.append(storage)
        tensors.append(tensor)
        described.append([memory, tensor.storage_offset(), tensor.stride(0), page_bytes, tensor.shape[0]])
        tensor_at.append(part_bytes)
        part_bytes += page_bytes * blocks_per_chunk
    # Layers of a group that share a tensor share its bytes: one copy is enough.
    groups = [
        list(dict.fromkeys((ref.tensor_idx, ref.page_size_bytes) for ref in refs)) for refs in kv_caches.group_data_refs
    ]
    fields = {"tensors": described, "groups": groups, "blocksPerChunk": blocks_per_chunk}
    return Layout(storages, tensors, fields, groups, tensor_at, part_bytes, blocks_per_chunk)


@dataclass(frozen=True)
class Chunks:
    """Which pages make up the chunks of a transfer.

    Attributes:
        groups: u32, each chunk's.
        blocks: u32, (chunks, blocks_per_chunk): page numbers, or NO_BLOCK.
    """

    groups: np.ndarray
    blocks: np.ndarray

    @property
    def are_complete(self) -> bool:
        return not (self.blocks == NO_BLOCK).any()


def chunks_of(gpu_spec: Any, blocks_per_chunk: int, count: int) -> Chunks:
    """Spreads the blocks of vLLM's GPULoadStoreSpec over `count` chunks.

    A group's blocks are consecutive ones of a request. The first may be inside of a chunk, the last chunk may want fewer than it has.

    Raises:
        ValueError: if they do not fill just these chunks.
    """
    groups = np.zeros(count, dtype="<u4")
    blocks = np.full((count, blocks_per_chunk), NO_BLOCK, dtype="<u4")
    flat = blocks.reshape(-1)
    block_at = chunk_at = 0
    for group, (size, first) in enumerate(zip(gpu_spec.group_sizes, gpu_spec.block_indices)):
        if size == 0:
            continue
        skip = first % blocks_per_chunk
        begin = chunk_at * blocks_per_chunk + skip
        if begin + size > len(flat):
            raise ValueError(f"kvferry: {len(gpu_spec.block_ids)} blocks do not fit {count} chunks of {blocks_per_chunk}")
        flat[begin : begin + size] = gpu_spec.block_ids[block_at : block_at + size]
        used = -(-(skip + size) // blocks_per_chunk)
        groups[chunk_at : chunk_at + used] = group
        block_at += size
        chunk_at += used
    if chunk_at != count or block_at != len(gpu_spec.block_ids):
        raise ValueError(f"kvferry: {len(gpu_spec.block_ids)} blocks do not fill {count} chunks of {blocks_per_chunk}")
    return Chunks(groups, blocks)


def transfer_bytes(layout: Layout, chunks: Chunks) -> int:
    """Bytes of the pages that are there."""
    page_bytes = [sum(size for _, size in group) for group in layout.groups]
    present = (chunks.blocks != NO_BLOCK).sum(axis=1)
    return sum(int(count) * page_bytes[group] for group, count in zip(chunks.groups.tolist(), present.tolist()))
