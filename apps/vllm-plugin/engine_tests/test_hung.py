"""The file system under the server hangs, as NFS does while its server is away: the engine computes, and finds its blocks again afterwards."""

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import LONG, kvferry, tokens, until_all_are_hits
from held import assert_none_was_held

# The first is short, and soon tells whether there are hits.
KNOWN = [[12, 200], [10, 1300], [11, 1000]]
OUTAGE_S = 60 if LONG else 8
THREADS_MAX = 100
GROWTH_BYTES_MAX = 256 << 20
# Many times what it takes.
BACK_S_MAX = 120


class HangingStorage:
    """A folder on a file system that can hang."""

    env = {}

    def __init__(self, folder):
        self._root = str(Path(folder) / "kv")

    def tiers(self, host):
        return [{"backend": "posix", "root": self._root, "abandonable": True, "threads": 4, "deadlineMs": 1000}]


def test_no_call_is_held_while_the_file_system_hangs_and_blocks_are_found_again(fuse, servers, engines):
    server = servers(HangingStorage(fuse["folder"]))
    engine = engines(kvferry(server, fence_kill_after_s=30))
    engine.ready()
    results = engine.run(*KNOWN)
    assert engine("settle")["settled"]
    before = engine("metrics")
    engine("reset")
    engine("calls")

    os.kill(fuse["pid"], signal.SIGSTOP)
    rounds = 0
    threads, first_bytes = server.facts()
    most_bytes = first_bytes
    try:
        ends = time.monotonic() + OUTAGE_S
        while rounds == 0 or time.monotonic() < ends:
            again = engine.run(*KNOWN, [100 + rounds, 900])
            assert tokens(again)[: len(KNOWN)] == tokens(results)
            now_threads, now_bytes = server.facts()
            threads, most_bytes = max(threads, now_threads), max(most_bytes, now_bytes)
            engine("reset")
            rounds += 1
        calls = engine("calls")
        assert_none_was_held(calls["slow"], calls["slowest"], calls["count"])
    finally:
        os.kill(fuse["pid"], signal.SIGCONT)

    hits_s, back_s = until_all_are_hits(engine, KNOWN, results, BACK_S_MAX)
    assert engine("settle")["settled"]
    after = engine("metrics")
    lost = sum(count - before.get(name, 0) for name, count in after.items() if name in LOST)
    print(
        f"{rounds} rounds in {OUTAGE_S} s, slowest call {calls['slowest'] * 1000:.2f} ms, {lost} stores lost, at most {threads} threads, "
        f"memory {first_bytes >> 20} to {most_bytes >> 20} MiB, "
        f"first hits after {hits_s:.1f} s, every block after {back_s:.1f} s"
    )
    assert lost > 0
    assert threads < THREADS_MAX and most_bytes - first_bytes < GROWTH_BYTES_MAX
    assert server.process.poll() is None


LOST = ("vllm:kvferry_store_blocks dropped", "vllm:kvferry_store_blocks failed")
