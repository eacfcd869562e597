"""Puts the offload region into huge pages.

Its file in /dev/shm comes in pages of 4 KiB, which lie anywhere. A drive that reads a MiB straight into them has 256 places to go to; in a
huge page it is one.
"""

import ctypes
import errno
import logging
import mmap
import time

logger = logging.getLogger(__name__)

HUGE_PAGE_BYTES = 2 << 20
_MADV_COLLAPSE = 25  # since Linux 6.1
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value
# Pages that are pinned, as workers pin them for a GPU, or in use just now stay where they are: some, and we go on; many, and it is all of them.
_PINNED_MAX = 8


def gather(fd: int, file_bytes: int, seconds_max: float) -> int:
    """Moves the memory of a shared file into huge pages, whoever else has it mapped; its bytes stay what they are.

    For a file whose memory is the caller's own and all there: holes are filled. Blocks for `seconds_max` at most. What cannot be
    had is left as it is: an old kernel, no huge page free, a file that is not in memory.

    Returns:
        Bytes that lie in huge pages now, as far as it came.
    """
    whole = file_bytes // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
    if whole == 0:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    # The kernel wants the file's huge pages to begin where memory's do: a mapping of our own, within a reservation of addresses.
    reserved_bytes = whole + HUGE_PAGE_BYTES
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    reserved = libc.mmap(None, reserved_bytes, 0, flags, -1, 0)
    if reserved == _MAP_FAILED:
        return 0
    try:
        start = -(-reserved // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        if libc.mmap(start, whole, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, 0) == _MAP_FAILED:
            return 0
        return _collapse(libc, start, whole, time.monotonic() + seconds_max)
    finally:
        libc.munmap(reserved, reserved_bytes)


def _collapse(libc: ctypes.CDLL, start: int, whole: int, ends_at: float) -> int:
    gathered = pinned = 0
    for at in range(0, whole, HUGE_PAGE_BYTES):
        if libc.madvise(start + at, HUGE_PAGE_BYTES, _MADV_COLLAPSE) == 0:
            gathered += HUGE_PAGE_BYTES
        else:
            pinned += 1
            if ctypes.get_errno() not in (errno.EAGAIN, errno.EBUSY) or pinned > _PINNED_MAX:
                break
        if time.monotonic() > ends_at:
            break
    logger.info("kvferry: %d of %d MiB of the offload region lie in huge pages", gathered >> 20, whole >> 20)
    return gathered
