"""What the scheduler tells the workers to store and to load. They travel by pickle."""

from dataclasses import dataclass

import numpy as np
from vllm.v1.kv_offload.base import LoadStoreSpec


@dataclass
class DirectStore(LoadStoreSpec):
    """Keys to be gathered, cut into batches of `batch_keys`. Batch i has the ticket `ticket + i`, modulo 2^32.

    Attributes:
        keys: packed.
    """

    ticket: int
    batch_keys: int
    key_bytes: int
    keys: bytes

    @property
    def count(self) -> int:
        return len(self.keys) // self.key_bytes


@dataclass
class DirectLoad(LoadStoreSpec):
    """Keys that the server holds for this engine, and where they lie in the arena of that instance.

    Attributes:
        keys: packed.
        offsets: u64 each, of the chunk's first byte.
    """

    instance: str
    key_bytes: int
    keys: bytes
    offsets: np.ndarray

    @property
    def count(self) -> int:
        return len(self.offsets)
