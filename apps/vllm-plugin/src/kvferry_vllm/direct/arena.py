"""The server's arena, mapped for reading: where a worker finds a block by itself when the server cannot bring it.

A load that was prepared must not fail. What the server holds there for this engine does not change while it is held, and not after the server's process
has ended. Holds outlive the engine's last connection by HOLD_GRACE_MS (60 s).
"""

import mmap
import os
import select
import time

import numpy as np
import torch

from kvferry_vllm.direct.layout import Chunks, Layout
from kvferry_vllm.wire import NO_BLOCK

SELF_COPY_S = 20.0  # after the end of the connection; a third of HOLD_GRACE_MS


class Arena:
    """One arena, of one run of the server.

    Args:
        descriptor: of the arena; stays the caller's.
        watch: a pidfd of the server, which becomes the arena's; None where its process cannot be watched.
    """

    def __init__(self, instance: str, descriptor: int, arena_bytes: int, watch: int | None) -> None:
        if os.fstat(descriptor).st_size < arena_bytes:
            raise ValueError(f"kvferry: the server's arena has {os.fstat(descriptor).st_size} bytes, not {arena_bytes}")
        self.instance = instance
        self._mapping = mmap.mmap(descriptor, arena_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        self._bytes = np.frombuffer(self._mapping, dtype=np.int8)
        self._watch = watch
        self._is_connected = True
        self._is_unbroken = True  # never away for so long that holds may have ended
        self._open_at = time.monotonic()

    def connected_again(self) -> None:
        self._is_unbroken = self._is_unbroken and time.monotonic() - self._open_at <= SELF_COPY_S
        self._is_connected = True

    def lost(self, open_at: float) -> None:
        """The connection has ended; it was seen open at that time."""
        self._is_connected = False
        self._open_at = open_at

    @property
    def holds_are_intact(self) -> bool:
        """Whether what was held here for this engine surely still lies here. Ask after a poll of the connection."""
        if self.server_ends_within(0):
            return True
        if not self._is_unbroken:
            return False
        return self._is_connected or time.monotonic() - self._open_at <= SELF_COPY_S

    def server_ends_within(self, seconds: float) -> bool:
        """Waits for the end of the server's process, as long as that. False too where it cannot be watched."""
        if self._watch is None:
            return False
        poller = select.poll()
        poller.register(self._watch, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    def copy_out(self, offsets: np.ndarray, chunks: Chunks, which: list[int], layout: Layout, part_at: int) -> None:
        """Copies chunks into the engine's KV tensors.

        Args:
            offsets: where each chunk lies; `which` of them are copied.
            part_at: where this worker's part begins in a chunk.

        Raises:
            RuntimeError: if a chunk lies outside of the arena.
        """
        for index in which:
            begin = int(offsets[index]) + part_at
            if begin + layout.part_bytes > len(self._bytes):
                raise RuntimeError(f"kvferry: a block at {begin} of an arena of {len(self._bytes)} bytes")
            part = self._bytes[begin : begin + layout.part_bytes]
            blocks = chunks.blocks[index]
            there = np.flatnonzero(blocks != NO_BLOCK)
            pages = torch.from_numpy(blocks[there].astype(np.int64))
            for tensor, size in layout.groups[chunks.groups[index]]:
                at = layout.tensor_at[tensor]
                page_bytes = layout.fields["tensors"][tensor][3]
                rows = part[at : at + page_bytes * layout.blocks_per_chunk].reshape(layout.blocks_per_chunk, page_bytes)
                source = torch.from_numpy(rows[there, :size])  # a copy: the mapping itself cannot be written
                target = layout.tensors[tensor]
                target[pages.to(target.device), :size] = source.to(target.device)

    def close(self) -> None:
        self._bytes = np.empty(0, dtype=np.int8)
        self._mapping.close()
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None
