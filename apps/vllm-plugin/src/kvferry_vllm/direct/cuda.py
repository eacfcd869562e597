"""KV cache on an NVIDIA GPU, which the server opens by CUDA IPC.

The handles come from the driver and not from PyTorch's `_share_cuda_`, whose bytes have a header that changes with its versions, and which keeps books about
consumers that are PyTorch too. A handle is of a whole allocation; a storage begins at some offset of it.
"""

import ctypes
import os
import re
from typing import Any

import torch

from kvferry_vllm.direct.devices import USE_TIER_MODE
from kvferry_vllm.vllm_config import config_value

IPC_HANDLE_BYTES = 64
UUID_BYTES = 16
CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9
_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


class _IpcHandle(ctypes.Structure):
    """CUipcMemHandle: cuIpcGetMemHandle fills one."""

    _fields_ = [("bytes", ctypes.c_ubyte * IPC_HANDLE_BYTES)]


class CudaDevice:
    """
    Args:
        driver: libcuda, for tests.

    Raises:
        ValueError: where the engine's settings put the KV cache into memory that CUDA IPC cannot share.
    """

    copies_end_with_connection = False

    def __init__(self, vllm_config: Any | None, driver: Any | None = None) -> None:
        reason = unshareable_reason(vllm_config, os.environ)
        if reason is not None:
            raise ValueError(f"kvferry direct mode: {reason}; {USE_TIER_MODE}.")
        self._driver = driver if driver is not None else ctypes.CDLL("libcuda.so.1")

    def memory(self, storages: list[torch.UntypedStorage]) -> dict[str, Any]:
        uuids, memories = set(), []
        for storage in storages:
            uuid, handle, offset = self._share(storage.data_ptr())
            uuids.add(uuid)
            memories.append([handle, offset, storage.nbytes()])
        if len(uuids) != 1:
            raise ValueError(f"kvferry direct mode: the KV cache of one worker is on {len(uuids)} GPUs; {USE_TIER_MODE}.")
        return {"kind": "cuda", "uuid": uuids.pop(), "memories": memories}

    def before_hello(self, server_pid: int | None) -> None: ...

    def mark(self) -> Any:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream())
        return event

    def synchronize(self) -> None:
        torch.cuda.current_stream().synchronize()

    def _share(self, address: int) -> tuple[bytes, bytes, int]:
        """The GPU's UUID, the handle of the allocation that this address is in, and where in it."""
        pointer = ctypes.c_uint64(address)
        ordinal, device = ctypes.c_int(-1), ctypes.c_int(-1)
        uuid = (ctypes.c_ubyte * UUID_BYTES)()
        base, size = ctypes.c_uint64(0), ctypes.c_size_t(0)
        handle = _IpcHandle()
        self._call("cuPointerGetAttribute", ctypes.byref(ordinal), CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer)
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetUuid_v2", ctypes.byref(uuid), device)
        self._call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(size), pointer)
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), base)
        return bytes(uuid), bytes(handle.bytes), address - base.value

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._driver, name)(*arguments)
        if result != 0:
            raise ValueError(
                f"kvferry direct mode: the KV cache cannot be shared by CUDA IPC ({name} gave CUDA error {result}): memory of "
                f"expandable segments, of sleep mode or of a virtual GPU cannot; {USE_TIER_MODE}."
            )


def unshareable_reason(vllm_config: Any | None, environment: Any) -> str | None:
    """Why the KV cache will be in memory that CUDA IPC cannot share, as far as settings tell; None if nothing does."""
    if config_value(vllm_config, "model_config.enable_sleep_mode"):
        return "sleep mode (enable_sleep_mode) keeps the KV cache in memory that CUDA IPC cannot share"
    for name in _ALLOCATOR_VARIABLES:
        if re.search(r"expandable_segments\s*:\s*true", environment.get(name, ""), re.IGNORECASE):
            return f"{name} asks for expandable_segments, whose memory CUDA IPC cannot share: remove that from it"
    return None
