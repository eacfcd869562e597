"""Real engines in direct mode: a load that was prepared brings the right bytes whatever happens to the server, and other engines go on."""

import os
import signal

import pytest
from conftest import MemoryStorage, cached, full_chunks, kvferry, tokens

KNOWN = [[10, 1300], [11, 1000]]


@pytest.fixture(scope="module")
def world(servers, engines, tmp_path_factory):
    """An engine that has stored what it knows, and one beside it."""
    storage = MemoryStorage(tmp_path_factory.mktemp("data"))
    server = servers(storage)
    first, beside = (engines(kvferry(server, "direct", fence_kill_after_s=2)) for _ in range(2))
    first.ready()
    beside.ready()
    results = first.run(*KNOWN)
    assert first("settle")["settled"]
    return {"storage": storage, "server": server, "engine": first, "beside": beside, "results": results, "keys": first("keys")["keys"]}


@pytest.fixture
def engine(world):
    """The engine with nothing in its own caches, and a server that is up."""
    server, engine = world["server"], world["engine"]
    if server.process is None or server.process.poll() is not None:
        server.start()
    engine("reset")
    assert engine("connected")["connected"]
    return engine


def test_tier_mode_and_direct_mode_share_blocks(world, engine, servers, engines):
    tier = engines(kvferry(world["server"]))
    tier.ready()
    found = tier.run(*KNOWN)
    assert tokens(found) == tokens(world["results"]) and cached(found) == full_chunks(KNOWN)
    fresh = tier.run([12, 900])
    assert tier("settle")["settled"]
    tier.kill()
    again = engine.run([12, 900])
    assert tokens(again) == tokens(fresh) and cached(again) == full_chunks([[12, 900]])


@pytest.mark.parametrize("what", ["kill_before_load", "stop_before_load"])
def test_a_server_that_goes_just_before_a_load(world, engine, what):
    """The scheduler has said that the blocks are hits. The worker finds them in the server's memory; a frozen server is ended first."""
    process = world["server"].process
    before = engine("worker")["self_copied"]
    engine(what, pid=process.pid)
    again = engine.run(KNOWN[0])
    assert tokens(again) == tokens(world["results"])[:1] and cached(again) == full_chunks(KNOWN[:1])
    assert process.wait(10) == -signal.SIGKILL
    assert engine("worker")["self_copied"] - before == KNOWN[0][1] // 64
    # Without a server it computes.
    assert tokens(engine.run(KNOWN[1])) == tokens(world["results"])[1:]


def test_a_server_that_only_pauses_is_not_ended(world, engine):
    import threading

    process = world["server"].process
    engine("stop_before_load", pid=process.pid)
    waker = threading.Timer(1.2, lambda: os.kill(process.pid, signal.SIGCONT))
    waker.start()
    again = engine.run(KNOWN[0])
    waker.join()
    assert tokens(again) == tokens(world["results"])[:1] and cached(again) == full_chunks(KNOWN[:1])
    assert process.poll() is None


def test_a_damaged_block_on_disk_is_computed(world, engine):
    """Memory is empty after a restart: the block comes from the disk, is found to be damaged, and is no hit."""
    world["server"].kill()
    damaged = world["keys"][1][7]
    (path,) = world["storage"].data.rglob(f"{damaged}.kvb")
    with open(path, "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 0xFF]))
    world["server"].start()
    assert engine("connected")["connected"]
    again = engine.run(KNOWN[0])
    assert tokens(again) == tokens(world["results"])[:1] and cached(again) == [7 * 64]
    assert engine("settle")["settled"]
    engine("reset")
    assert cached(engine.run(KNOWN[0])) == full_chunks(KNOWN[:1])  # it was stored anew


def test_an_engine_that_is_killed_disturbs_nobody(world, engine, engines):
    """It dies with loads and stores under way."""
    dying = engines(kvferry(world["server"], "direct"))
    dying.ready()
    dying.send("run", prompts=[*KNOWN, *([50 + i, 1500] for i in range(20))])
    dying.kill()
    again = engine.run(*KNOWN, [60, 900])
    assert tokens(again)[:2] == tokens(world["results"]) and cached(again)[:2] == full_chunks(KNOWN)
    assert world["server"].process.poll() is None


def test_an_engine_whose_server_never_comes(world, engines, tmp_path):
    from types import SimpleNamespace

    alone = engines(kvferry(SimpleNamespace(socket=str(tmp_path / "nobody")), "direct"))
    alone.ready()
    results = alone.run(*KNOWN)
    assert tokens(results) == tokens(world["results"]) and cached(results) == [0, 0]


def test_two_ranks_have_a_part_each(world, engine, engines):
    """Tensor parallel engines share with others of the same arrangement, and with nobody else."""
    server = world["server"]
    first = engines(kvferry(server, "direct"), tp=2)
    first.ready()
    results = first.run(*KNOWN)
    assert first("settle")["settled"] and cached(results) == [0, 0]
    first.kill()
    second = engines(kvferry(server, "direct"), tp=2)
    second.ready()
    again = second.run(*KNOWN)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(KNOWN)
