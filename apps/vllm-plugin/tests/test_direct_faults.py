"""Direct mode when the server is gone, frozen, started again or refuses: loads bring the right bytes all the same, or the engine is stopped."""

import gc
import os
import random
import signal
import time

import pytest
from direct_helpers import same
from held import CALL_S_MAX, HeldTimer, assert_none_was_held
from helpers import keys_of, wait_for
from stand_in_direct import DirectStandIn
from vllm.v1.kv_offload.base import LookupResult, ScheduleEndContext

from kvferry_vllm.direct import arena, holds, worker

HIT, MISS, RETRY, PENDING = LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY, LookupResult.HIT_PENDING
BUDGET_S = 0.002


def filled(engine, count=4):
    """Stores blocks, empties the tensors, and says that a request wants them: its keys, the bytes and the request."""
    keys = keys_of(count)
    before = engine.pages(0, range(2 * count))
    engine.store(keys, engine.blocks(list(range(2 * count))))
    engine.wipe()
    request = engine.request(keys)
    assert engine.settle(keys, request) == [HIT] * count
    return keys, before, request


def assert_loaded(engine, keys, before, request):
    blocks = list(range(20, 20 + 2 * len(keys)))
    engine.load(keys, engine.blocks(blocks), request)
    assert same(engine.pages(0, blocks), before)


@pytest.fixture
def direct_process(server_process, tmp_path):
    """`start(*arguments)`: a stand-in for direct mode in a process of its own, which keeps its blocks on disk."""
    return lambda *arguments: server_process("--disk", str(tmp_path / "disk"), *arguments, program="stand_in_direct.py")


def test_no_server_is_an_empty_cache(direct, tmp_path):
    engine = direct(tmp_path / "nobody")
    keys = keys_of(3)
    request = engine.request(keys)
    assert [engine.manager.lookup(key, request) for key in keys] == [MISS] * 3
    output = engine.manager.prepare_store(keys, request)
    assert output.keys_to_store == [] and not engine.manager.has_pending_work()
    assert engine.manager.get_stats().data["data"]["vllm:kvferry_store_blocks"] == {("dropped",): 3}
    with DirectStandIn(str(tmp_path / "nobody")):
        wait_for(lambda: (engine.step(), engine.manager._client.usable and engine.workers[0]._client.usable)[1])
        assert_loaded(engine, *filled(engine))


def test_stores_without_a_server_end_at_once_and_are_counted(direct, direct_server):
    engine = direct(direct_server.path)
    request = engine.request()
    output = engine.manager.prepare_store(keys_of(2), request)
    direct_server.stop()
    wait_for(lambda: (engine.workers[0].get_finished(), not engine.workers[0]._client.usable)[1])
    engine.workers[0].submit_store(7, engine.blocks([0, 1, 2, 3]), output.store_spec)
    (result,) = engine.workers[0].get_finished()
    assert result.success and result.transfer_size == 0 and engine.workers[0].dropped_blocks == 2


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_server_killed_around_a_load(direct, direct_process, when):
    server = direct_process(*(["--die-in-scatter"] if when == "in the middle" else []))
    engine = direct(server.socket_path, workers=2)
    keys, before, request = filled(engine)
    if when == "before":
        server.kill()
    assert_loaded(engine, keys, before, request)
    assert server.wait(5) == -signal.SIGKILL
    # Its end is certain, so its memory can be trusted however long ago that was.
    assert all(each.self_copied_blocks for each in engine.workers)


def test_a_driver_may_go_on_copying_until_a_killed_server_has_ended(direct, direct_process, monkeypatch):
    waits = []
    wait = arena.Arena.server_ends_within

    def spied(self, seconds):
        waits.append((seconds, wait(self, seconds)))
        return waits[-1][1]

    monkeypatch.setattr(arena.Arena, "server_ends_within", spied)
    server = direct_process("--die-in-scatter")
    engine = direct(server.socket_path)
    monkeypatch.setattr(engine.workers[0]._device, "copies_end_with_connection", False)
    keys, before, request = filled(engine)
    waits.clear()
    assert_loaded(engine, keys, before, request)
    assert waits[0] == (worker.SERVER_END_S, True)


def test_a_server_that_died_long_ago_can_still_be_read(direct, direct_process, monkeypatch):
    monkeypatch.setattr(arena, "SELF_COPY_S", 0.05)
    server = direct_process()
    engine = direct(server.socket_path)
    keys, before, request = filled(engine)
    spec = engine.manager.prepare_load(keys, request)
    server.kill()
    wait_for(lambda: (engine.step(), engine.workers[0]._arena is None)[1])
    time.sleep(0.2)
    engine.workers[0].submit_load(1, spec, engine.blocks(list(range(8))))
    engine.workers[0].wait({1})
    assert same(engine.pages(0, range(8)), before)


def test_a_frozen_server_is_ended_and_loads_and_stores_finish(direct, direct_process):
    server = direct_process()
    engine = direct(server.socket_path, fence_kill_after_s=1)
    keys, before, request = filled(engine)
    os.kill(server.pid, signal.SIGSTOP)
    store = engine.begin_store(keys_of(1, start=50), engine.blocks([40, 41]))
    assert_loaded(engine, keys, before, request)
    assert server.wait(5) == -signal.SIGKILL
    engine.workers[0].wait({store})


def test_a_connection_that_ended_a_moment_ago_is_trusted(direct, direct_server):
    engine = direct(direct_server.path)
    keys, before, request = filled(engine)
    direct_server.silent.add("hello")  # and none takes its place
    spec = engine.manager.prepare_load(keys, request)
    direct_server.drop_connections()
    wait_for(lambda: (engine.step(), engine.workers[0]._arena is None)[1])
    engine.workers[0].submit_load(1, spec, engine.blocks(list(range(8))))
    engine.workers[0].wait({1})
    assert same(engine.pages(0, range(8)), before) and engine.workers[0].self_copied_blocks == 4


@pytest.mark.parametrize("when", ["before the copy", "while copying"])
def test_bytes_that_may_have_changed_stop_the_engine(direct, direct_server, monkeypatch, when):
    """The connection has ended, the process has not: after a while the server may have given the memory to others."""
    monkeypatch.setattr(arena, "SELF_COPY_S", 0.3)
    engine = direct(direct_server.path)
    keys, _, request = filled(engine)
    direct_server.silent.add("hello")
    spec = engine.manager.prepare_load(keys, request)
    copy_out = arena.Arena.copy_out
    copied = []
    monkeypatch.setattr(arena.Arena, "copy_out", lambda *a: (copy_out(*a), copied.append(1), time.sleep(0.5)))
    direct_server.drop_connections()
    wait_for(lambda: (engine.workers[0].get_finished(), engine.workers[0]._arena is None)[1])
    if when == "before the copy":
        time.sleep(0.5)
    with pytest.raises(RuntimeError, match="may not be what they"):
        engine.workers[0].submit_load(1, spec, engine.blocks(list(range(8))))
    assert bool(copied) == (when == "while copying")


def test_what_is_held_no_more_stops_the_engine(direct, direct_server):
    engine = direct(direct_server.path)
    keys, _, request = filled(engine)
    direct_server.holds.clear()
    engine.begin_load(keys, engine.blocks(list(range(8))), request)
    with pytest.raises(RuntimeError, match="not held any more"):
        engine.workers[0].wait({0, *engine.workers[0]._open})
    engine.workers[0]._open.clear()


def test_blocks_in_an_arena_that_never_comes_stop_the_engine(direct, direct_server, monkeypatch):
    monkeypatch.setattr(worker, "ARENA_WAIT_S", 0.1)
    engine = direct(direct_server.path)
    keys, _, request = filled(engine)
    spec = engine.manager.prepare_load(keys, request)
    spec.instance = "another"
    engine.workers[0].submit_load(1, spec, engine.blocks(list(range(8))))
    with pytest.raises(RuntimeError, match="no connection to"):
        engine.workers[0].wait({1})


@pytest.mark.parametrize("refusal", ["some fail", "an error", "draining"])
def test_what_the_server_does_not_bring_is_copied_from_its_memory(direct, direct_server, refusal):
    engine = direct(direct_server.path)
    keys, before, request = filled(engine)
    if refusal == "some fail":
        direct_server.outcomes = dict.fromkeys(keys[1:3], 0)
    elif refusal == "draining":
        direct_server.push({"t": "drain"})
        wait_for(lambda: (engine.workers[0].get_finished(), engine.workers[0]._client.draining)[1])
    else:
        direct_server.silent.add("scatter")
    job = engine.begin_load(keys, engine.blocks(list(range(20, 28))), request)
    if refusal == "an error":
        wait_for(lambda: (engine.step(), direct_server.count("scatter"))[1])
        number = next(each["id"] for each in direct_server.seen if each["t"] == "scatter")
        (peer,) = [each for each in direct_server._peers.values() if each.hello["direct"]["role"] == "worker"]
        from stand_in_server import frame_of

        error = {"t": "error", "id": number, "code": "BUSY", "message": "no", "context": {}}
        peer.later.append((0, frame_of(error), ()))
    engine.run(job)
    assert same(engine.pages(0, range(20, 28)), before)
    assert engine.workers[0].self_copied_blocks == (2 if refusal == "some fail" else 4)


def test_a_server_that_is_started_again_is_used_and_the_old_memory_let_go(direct, direct_process):
    server = direct_process()
    engine = direct(server.socket_path)
    keys, before, request = filled(engine)
    old_spec = engine.manager.prepare_load(keys, request)
    server.kill()
    server.wait()
    direct_process()
    wait_for(lambda: (engine.step(), engine.manager._client.usable and engine.workers[0]._client.usable)[1], 30)
    assert len(engine.workers[0]._arenas) == 2
    engine.workers[0].submit_load(1, old_spec, engine.blocks(list(range(8))))
    engine.workers[0].wait({1})
    assert same(engine.pages(0, range(8)), before) and engine.workers[0].self_copied_blocks == 4
    engine.manager.complete_load(keys, request)

    engine.wipe()
    request = engine.request(keys)
    wait_for(lambda: engine.settle(keys, request) == [HIT] * 4)
    assert_loaded(engine, keys, before, request)
    assert len(engine.workers[0]._arenas) == 1 and engine.workers[0].self_copied_blocks == 4
    engine.step()
    assert engine.manager._holds.held_count == 8 == engine.manager._holds.released_count + engine.manager._holds.ended_count


def test_a_hit_can_be_loaded_although_the_connection_ends_in_that_step(direct, direct_server):
    engine = direct(direct_server.path)
    keys, before, request = filled(engine)
    assert [engine.manager.lookup(key, request) for key in keys] == [HIT] * 4
    direct_server.drop_connections()
    wait_for(lambda: (engine.manager._poll(), not engine.manager._client.usable)[1])
    assert_loaded(engine, keys, before, request)


def test_a_new_connection_to_the_same_server_gives_back_what_the_old_one_held(direct, direct_server):
    engine = direct(direct_server.path)
    keys, before, request = filled(engine)
    direct_server.drop_connections()
    wait_for(lambda: (engine.step(), engine.manager._client.usable and engine.workers[0]._client.usable)[1])
    engine.manager.on_request_finished(request)
    wait_for(lambda: (engine.step(), not direct_server.is_held)[1])
    assert direct_server.wrong_releases == 0
    request = engine.request(keys)
    wait_for(lambda: engine.settle(keys, request) == [HIT] * 4)
    assert_loaded(engine, keys, before, request)


def test_no_block_is_a_hit_before_every_worker_has_the_arena(direct, direct_server):
    engine = direct(direct_server.path, workers=2, lookup_deadline_ms=200)
    keys, before, _ = filled(engine)
    engine.manager.on_request_finished(engine.request(keys))
    late = engine.workers[1]
    late._client.close(1.0)
    wait_for(lambda: (engine.step(), not direct_server.is_held) and sum(not p.dropped for p in direct_server._peers.values()) == 2)
    engine.manager.reset_cache()
    wait_for(lambda: (engine.step(), not direct_server.is_held)[1])
    assert engine.settle(keys, engine.request(keys)) == [MISS] * 4


def test_a_stopped_server_never_holds_a_call_of_the_scheduler(direct, direct_process):
    timer = HeldTimer()
    server = direct_process()
    engine = direct(server.socket_path, fence_kill_after_s=None, lookup_budget_ms=BUDGET_S * 1000)
    filled(engine)
    os.kill(server.pid, signal.SIGSTOP)
    gc.collect()
    gc.freeze()
    calls, answers, started = [], [], time.monotonic()
    manager, number = engine.manager, 100
    while time.monotonic() - started < 2.5:
        number += 8
        keys = keys_of(8, start=number)
        request = engine.request(keys)
        for call in (
            lambda: answers.append(manager.lookup(keys[0], request)),
            lambda: manager.prepare_store(keys, request),
            lambda: manager.complete_store(keys, request),
            lambda: manager.on_schedule_end(ScheduleEndContext((), ())),
            lambda: manager.on_request_finished(request),
            lambda: manager.has_pending_work(),
        ):
            calls.append(timer.run(call)[1])
        time.sleep(0.005)
    timer.close()
    assert max(held.asked for held in calls) <= BUDGET_S
    assert_none_was_held([each for each in calls if each.seconds > CALL_S_MAX], max(each.seconds for each in calls), len(calls))
    assert answers[-20:] == [MISS] * 20
    os.kill(server.pid, signal.SIGCONT)
    wait_for(lambda: (engine.step(), manager._client.usable)[1])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_bytes_are_right_and_holds_are_given_back_once(direct, direct_server, monkeypatch, seed):
    """Requests come, look, load and end in any order, connections end, the cache is reset. What nobody holds is overwritten at once."""
    monkeypatch.setattr(holds, "INTEREST_S_MAX", 0.02)
    monkeypatch.setattr(holds, "TIDY_S", 0.005)
    rng = random.Random(seed)
    engine = direct(direct_server.path, lookup_deadline_ms=1000)
    keys = keys_of(8)
    before = {key: engine.pages(0, [2 * i, 2 * i + 1]) for i, key in enumerate(keys)}
    engine.store(keys, engine.blocks(list(range(16))))
    waiting, loads, losses = {}, {}, 0
    free = [list(range(16 + 16 * i, 32 + 16 * i)) for i in range(3)]
    loaded = 0
    for _ in range(300):
        do = rng.random()
        if do < 0.25 and len(waiting) < 4:
            begin = rng.randrange(8)
            wanted = keys[begin : begin + rng.randrange(1, 9)]
            waiting[id(wanted)] = (wanted, engine.request(wanted))
        elif do < 0.7 and waiting:
            name = rng.choice(list(waiting))
            wanted, request = waiting[name]
            answers = [engine.manager.lookup(key, request) for key in wanted]
            hits = answers.index(next((each for each in answers if each is not HIT), None)) if set(answers) != {HIT} else len(wanted)
            if hits and free and rng.random() < 0.7:
                blocks = free.pop()
                job = engine.begin_load(wanted[:hits], engine.blocks(blocks[: 2 * hits]), request)
                loads[job] = (wanted[:hits], blocks, request)
                del waiting[name]
                if rng.random() < 0.3:
                    engine.manager.on_request_finished(request)
        elif do < 0.8 and waiting:
            _, request = waiting.pop(rng.choice(list(waiting)))
            engine.manager.on_request_finished(request)
        elif do < 0.81 and losses < 2 and seed % 2:
            losses += 1
            direct_server.drop_connections()
        elif do < 0.82 and not loads:
            engine.manager.reset_cache()
        for job in engine.step()[0]:
            wanted, blocks, request = loads.pop(job)
            for i, key in enumerate(wanted):
                assert same(engine.pages(0, blocks[2 * i : 2 * i + 2]), before[key])
            loaded += len(wanted)
            engine.manager.complete_load(wanted, request)
            free.append(blocks)
        if rng.random() < 0.3:
            time.sleep(0.003)
    for job in list(loads):
        engine.run(job)
        engine.manager.complete_load(loads[job][0], loads[job][2])
    for _, request in waiting.values():
        engine.manager.on_request_finished(request)
    assert loaded > 20 and direct_server.wrong_releases == 0
    wait_for(lambda: (engine.step(), engine.manager._client.usable and not engine.manager._holds.is_asking)[1])
    engine.step()
    counts = engine.manager._holds
    assert counts.held_count == counts.released_count + counts.ended_count and counts.live_count == 0
    if losses:
        # What a lost connection took with it, an answer or a RELEASE, is not given back: too few, never too many.
        assert direct_server.released_ever <= counts.released_count
    else:
        wait_for(lambda: (engine.step(), not direct_server.is_held)[1])
        assert direct_server.held_ever == direct_server.released_ever == counts.held_count
