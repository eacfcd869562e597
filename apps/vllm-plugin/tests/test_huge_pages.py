"""Gathering a region's memory changes where its bytes lie, and nothing else."""

import mmap
import os

import numpy as np
import pytest
from kvferry_vllm.huge_pages import HUGE_PAGE_BYTES, gather

BYTES = 3 * HUGE_PAGE_BYTES + 4096


@pytest.fixture
def region():
    """A shared file of single pages, as vLLM makes one, mapped where its huge pages could not be."""
    path = f"/dev/shm/kvferry-huge-{os.getpid()}"
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.unlink(path)
    os.ftruncate(fd, BYTES)
    mapping = mmap.mmap(fd, BYTES)
    rows = np.frombuffer(mapping, dtype=np.uint8)
    rows[:] = np.random.default_rng(1).integers(0, 255, BYTES, dtype=np.uint8)
    yield fd, rows
    del rows
    os.close(fd)


def mappings():
    with open("/proc/self/maps") as maps:
        return len(maps.readlines())


def test_bytes_stay_and_can_be_written(region):
    fd, rows = region
    before = rows.copy()
    gathered = gather(fd, BYTES, 60)
    if gathered == 0:
        pytest.skip("this kernel does not collapse shared memory, or has no huge page free")
    assert gathered == 3 * HUGE_PAGE_BYTES
    assert (rows == before).all()
    rows[:] = 7
    assert os.pread(fd, BYTES, 0) == b"\x07" * BYTES


def test_leaves_no_mapping_behind(region):
    gather(region[0], BYTES, 60)
    before = mappings()
    for _ in range(8):
        gather(region[0], BYTES, 60)
    assert mappings() <= before + 2  # of whatever else runs here


def test_stops_when_the_time_is_over(region):
    assert gather(region[0], BYTES, -1) <= HUGE_PAGE_BYTES


def test_a_file_that_is_not_in_memory_is_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(BYTES))
    fd = os.open(path, os.O_RDWR)
    try:
        assert gather(fd, BYTES, 60) in (0, 3 * HUGE_PAGE_BYTES)  # tmp may be in memory
    finally:
        os.close(fd)
    assert path.read_bytes() == bytes(BYTES)


def test_a_descriptor_that_cannot_be_mapped_costs_nothing():
    reading, writing = os.pipe()
    try:
        assert gather(reading, BYTES, 60) == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_a_small_region_has_nothing_to_gather(region):
    assert gather(region[0], HUGE_PAGE_BYTES - 1, 60) == 0
