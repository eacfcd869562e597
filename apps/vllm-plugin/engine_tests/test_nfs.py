"""A real engine over real NFS, hard mounts, while the storage is away, cut off and slow: it computes, and finds its blocks again afterwards.

Runs where a kernel has NFS, with all rights: in the guest of `npm test -- --only nfs-engine`, on one engine for all of it.
"""

import os
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from conftest import cached, kvferry, tokens, until_all_are_hits
from held import WAITED_FOR_SERVER_S

MOUNTS = os.environ.get("KVFERRY_NFS_MOUNTS")
pytestmark = pytest.mark.skipif(MOUNTS is None, reason="only in the guest with real NFS")

VERSIONS = ("v4", "v3")
# The first is short, and soon tells whether there are hits.
KNOWN = [[12, 200], [10, 1300], [11, 1000]]
OUTAGE_S = 60
THREADS_MAX = 100
GROWTH_BYTES_MAX = 256 << 20
# Many times what it takes.
BACK_S_MAX = 300
LOST = ("vllm:kvferry_store_blocks dropped", "vllm:kvferry_store_blocks failed")
CHANGES = {
    "the server of the storage is away": (["rpc.nfsd 0"], ["rpc.nfsd -V 3 -V 4 8", "echo Y > /proc/fs/nfsd/v4_end_grace"]),
    "the network is cut": (["tc qdisc add dev vc1 root netem loss 100%"], ["tc qdisc del dev vc1 root"]),
    "the network is slow and loses packets": (
        ["tc qdisc add dev vc1 root netem delay 10ms loss 1%", "ip netns exec c1 tc qdisc add dev eth0 root netem delay 10ms loss 1%"],
        ["tc qdisc del dev vc1 root", "ip netns exec c1 tc qdisc del dev eth0 root"],
    ),
}  # fmt: skip
AWAY, CUT, SLOW = CHANGES


class NfsStorage:
    """A folder on the mount of a client: "c1" or "c2", which are two hosts."""

    env = {}

    def __init__(self, version, client="c1"):
        self.root = f"{MOUNTS}/{client}{version}/engine-{version}"

    def tiers(self, host):
        return [{"backend": "nfs", "root": self.root, "threads": 4, "deadlineMs": 3000}]


@contextmanager
def changed(name):
    begin, end = CHANGES[name]
    try:
        for command in begin:
            subprocess.run(command, shell=True, check=True)
        yield
    finally:
        for command in end:
            subprocess.run(command, shell=True, check=True)


@pytest.fixture(scope="module")
def world(servers, engines):
    server = servers(NfsStorage(VERSIONS[0]))
    engine = engines(kvferry(server, fence_kill_after_s=30), with_control=True)
    engine.ready()
    return {"server": server, "engine": engine}


@pytest.fixture(scope="module", params=VERSIONS)
def version(request, world):
    """The server over this version of NFS, with the known prompts stored."""
    server, engine = world["server"], world["engine"]
    use(world, NfsStorage(request.param))
    world["results"] = engine.run(*KNOWN)
    assert engine("settle")["settled"]
    assert server.process.poll() is None
    return request.param


def use(world, storage):
    server, engine = world["server"], world["engine"]
    server.kill()
    server.configure(storage.tiers(0))
    server.start()
    engine("reset")
    assert engine("connected")["connected"]


def mount_is_back(root, seconds):
    """Notes after how many seconds the kernel itself has an answer again, to a request that was sent with the server back."""
    started = time.monotonic()
    os.statvfs(root)
    seconds.append(time.monotonic() - started)


@pytest.mark.parametrize("change", list(CHANGES))
def test_no_call_is_held_and_blocks_are_found_again(version, change, world):
    server, engine, results = world["server"], world["engine"], world["results"]
    root = NfsStorage(version).root
    until_all_are_hits(engine, KNOWN, results, BACK_S_MAX)
    assert engine("settle")["settled"]
    before = engine("metrics")
    engine("reset")
    engine("calls")
    threads, first_bytes = server.facts()

    rounds, hits, fresh, fresh_results, most_bytes = 0, 0, None, None, first_bytes
    with changed(change):
        ends = time.monotonic() + OUTAGE_S
        while rounds == 0 or time.monotonic() < ends:
            fresh = [1000 * list(CHANGES).index(change) + 100 + rounds, 900]
            again = engine.run(*KNOWN, fresh)
            assert tokens(again)[: len(KNOWN)] == tokens(results)
            fresh_results = tokens(again)[len(KNOWN) :]
            hits += sum(cached(again))
            now_threads, now_bytes = server.facts()
            threads, most_bytes = max(threads, now_threads), max(most_bytes, now_bytes)
            engine("reset")
            rounds += 1
        calls = engine("calls")

    mount = []
    watch = threading.Thread(target=mount_is_back, args=(root, mount))
    watch.start()
    hits_s, back_s = until_all_are_hits(engine, KNOWN, results, BACK_S_MAX)
    watch.join()
    assert tokens(engine.run(fresh)) == fresh_results
    assert engine("settle")["settled"]
    after = engine("metrics")
    lost = sum(count - before.get(name, 0) for name, count in after.items() if name in LOST)
    slow, control = len(calls["slow"]), calls["control_slow"]
    print(
        f"# NFS {version}, {change} for {OUTAGE_S} s: {rounds} rounds of 4 requests, {hits} tokens from storage, {lost} stores lost; "
        f"{calls['count']} calls, over 5 ms {slow}, of which {calls['held']} waited (control {control}), slowest {calls['slowest'] * 1000:.1f} ms "
        f"(control {calls['control_slowest'] * 1000:.1f} ms); at most {threads} threads, memory {first_bytes >> 20} to {most_bytes >> 20} MiB; "
        f"the mount answered {mount[0]:.1f} s after the end, first hits after {hits_s:.1f} s, every block after {back_s:.1f} s",
        flush=True,
    )
    assert calls["count"] > 0 and calls["slowest"] < WAITED_FOR_SERVER_S, calls["slow"][:20]
    assert calls["held"] == 0, [each for each in calls["slow"] if each["waited"]][:20]
    assert threads < THREADS_MAX and most_bytes - first_bytes < GROWTH_BYTES_MAX
    assert change == SLOW or lost > 0
    assert server.process.poll() is None


def test_the_other_node_finds_what_was_stored(version, world):
    use(world, NfsStorage(version, "c2"))
    until_all_are_hits(world["engine"], KNOWN, world["results"], BACK_S_MAX)
