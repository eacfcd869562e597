"""The memory that an engine's KV tensors are in: how the server reaches it, and when it may.

A device tells HELLO's `memory`, and gives marks: a mark is done when everything is that the engine has been told to do with that memory so far. Only then may
the server read blocks that are stored, or write blocks that are loaded.
"""

import ctypes
import logging
from typing import Any, Protocol

import torch

logger = logging.getLogger("vllm.kvferry.direct")

PR_SET_PTRACER = 0x59616D61
USE_TIER_MODE = (
    'use tier mode instead: "spec_name": "TieringOffloadingSpec" with "secondary_tiers": [{"type": "KvferryTier", '
    '"module_path": "kvferry_vllm", "socket": …}]'
)


class Mark(Protocol):
    def query(self) -> bool:
        """Whether it is done."""


class Device(Protocol):
    copies_end_with_connection: bool
    """Whether the end of a killed server's connection comes after the end of its copies. A driver's may still be under way then: they end with the process."""

    def memory(self, storages: list[torch.UntypedStorage]) -> dict[str, Any]:
        """HELLO's `memory`.

        Raises:
            ValueError: for memory that cannot be shared, with what to do instead.
        """

    def before_hello(self, server_pid: int | None) -> None:
        """What the server needs before it opens the memory."""

    def mark(self) -> Mark | None:
        """None: it is done already."""

    def synchronize(self) -> None:
        """Waits until copies that this process has made are visible to the engine."""


class ProcessDevice:
    """Memory of this process, which the server reads and writes by cross-memory attach."""

    copies_end_with_connection = True

    def memory(self, storages: list[torch.UntypedStorage]) -> dict[str, Any]:
        return {"kind": "process", "memories": [[each.data_ptr(), each.nbytes()] for each in storages]}

    def before_hello(self, server_pid: int | None) -> None:
        """Names the server as the one process that may attach, where Yama restricts that to parents."""
        if server_pid is None:
            return  # of another container: the system must allow it without us
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PTRACER, ctypes.c_ulong(server_pid), 0, 0, 0)  # EINVAL: no Yama here

    def mark(self) -> None:
        return None  # the engine computes in the thread that calls us

    def synchronize(self) -> None: ...


def device_of(device_type: str, vllm_config: Any | None) -> Device:
    """The device of the engine's KV tensors.

    Raises:
        ValueError: for one that direct mode does not reach, or memory that cannot be shared.
    """
    if device_type == "cpu":
        return ProcessDevice()
    if device_type == "cuda" and torch.version.hip is None:
        from kvferry_vllm.direct.cuda import CudaDevice

        return CudaDevice(vllm_config)
    raise ValueError(f"kvferry direct mode: KV cache on '{device_type}' cannot be reached by the server; {USE_TIER_MODE}.")
