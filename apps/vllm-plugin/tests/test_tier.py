"""What the tier promises vLLM, over the stand-in server."""

import gc
import os
import signal
import time

import numpy as np
import pytest
from held import CALL_S_MAX, HeldTimer, assert_none_was_held
from helpers import BLOCK_BYTES, SLOTS, keys_of, wait_for
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext
from vllm.v1.kv_offload.tiering.base import SecondaryTierManager

HIT, MISS, RETRY = LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY
BATCHED = hasattr(ReqContext("x"), "_offload_key_positions")
BUDGET_S = 0.002
needs_positions = pytest.mark.skipif(not BATCHED, reason="vLLM 0.30 does not tell a request's keys in advance")


@pytest.fixture
def timer():
    timer = HeldTimer()
    yield timer
    timer.close()


def transfer_bytes(result):
    return getattr(result, "transfer_bytes", None)  # vLLM 0.30 has none


def test_implements_every_abstract_method():
    from kvferry_vllm import KvferryTier

    assert issubclass(KvferryTier, SecondaryTierManager)
    assert not KvferryTier.__abstractmethods__


def test_bytes_come_back_as_they_were_stored(harness):
    h = harness()
    keys = keys_of(8)
    payload = np.random.default_rng(1).integers(0, 255, (8, BLOCK_BYTES), dtype=np.uint8).view(np.int8)
    h.rows[:8] = payload
    stored = h.store(keys, range(8))
    assert stored.success and stored.transfer_time == 0.001
    assert transfer_bytes(stored) in (8 * BLOCK_BYTES, None)
    h.rows[:] = 0
    loaded = h.load(keys, range(20, 28))
    assert loaded.success and transfer_bytes(loaded) in (8 * BLOCK_BYTES, None)
    assert (h.rows[20:28] == payload).all()


def test_a_block_that_was_there_counts_as_stored(harness):
    h = harness()
    h.store(keys_of(1), [0])
    again = h.store(keys_of(2), [0, 1])
    assert again.success and transfer_bytes(again) in (BLOCK_BYTES, None)


@needs_positions
def test_one_question_answers_a_whole_request_in_the_same_step(harness, server):
    h = harness()
    keys = keys_of(40)
    h.store(keys[:30], range(30))
    request = h.request(keys)
    wait_for(lambda: h.settle(keys, request) == [HIT] * 30 + [MISS] * 10)
    assert server.count("lookup") == 1


def test_first_lookup_waits_no_longer_than_its_budget(harness, server, timer):
    h = harness(lookup_budget_ms=BUDGET_S * 1000)
    server.delay_s["lookup"] = 0.05
    keys = keys_of(4)
    request = h.request(keys)
    answer, held = timer.run(h.tier.lookup, keys[0], request)
    assert answer is RETRY and held.asked <= BUDGET_S
    assert h.settle(keys, request) == [MISS] * 4


def test_a_lookup_without_an_answer_becomes_a_miss_at_its_deadline(harness, server):
    h = harness(lookup_deadline_ms=100)
    server.silent.add("lookup")
    keys = keys_of(3)
    request = h.request(keys)
    assert h.tier.lookup(keys[0], request) is RETRY
    started = time.monotonic()
    assert h.settle(keys, request) == [MISS] * 3
    assert time.monotonic() - started > 0.05


def test_pending_blocks_are_asked_again_until_they_are_there(harness, server):
    h = harness(lookup_deadline_ms=5000)
    keys = keys_of(2)
    h.store(keys, [0, 1])
    server.pending.add(keys[1])
    request = h.request(keys)
    wait_for(lambda: (h.lookup_all(keys, request), h.step())[0] == [HIT, RETRY])
    server.pending.clear()
    assert h.settle(keys, request) == [HIT, HIT]


def test_pending_becomes_a_miss_at_the_deadline(harness, server):
    h = harness(lookup_deadline_ms=80)
    server.pending.update(keys_of(1))
    request = h.request(keys_of(1))
    assert h.settle(keys_of(1), request) == [MISS]


@needs_positions
def test_asking_again_asks_nobody(harness, server, timer):
    h = harness()
    keys = keys_of(2000)
    request = h.request(keys)
    h.settle(keys, request)
    asked = server.count("lookup")
    for key in keys:
        _, held = timer.run(h.tier.lookup, key, request)
        assert held.asked == 0
    assert server.count("lookup") == asked


def test_a_failed_load_keeps_what_arrived_and_misses_the_rest(harness, server):
    h = harness()
    keys = keys_of(4)
    h.store(keys, range(4))
    request = h.request(keys)
    assert h.settle(keys, request) == [HIT] * 4
    server.outcomes[keys[2]] = 6  # CORRUPT
    result = h.load(keys, range(10, 14), request)
    assert not result.success
    assert set(result.successful_keys) == {keys[0], keys[1], keys[3]}
    assert h.lookup_all(keys, request) == [HIT, HIT, MISS, HIT]
    other = h.request(keys)
    assert h.settle(keys, other) == [HIT, HIT, MISS, HIT]  # and for others, for a while


def test_a_key_that_failed_is_back_once_it_is_stored_again(harness, server):
    h = harness()
    keys = keys_of(1)
    h.store(keys, [0])
    server.outcomes[keys[0]] = 6
    assert not h.load(keys, [1]).success
    server.outcomes.clear()
    server.blocks.clear()
    h.store(keys, [0])
    assert h.settle(keys, h.request(keys)) == [HIT]


def test_a_load_that_failed_with_its_connection_says_nothing_about_the_block(harness, server):
    h = harness(lookup_deadline_ms=5000)
    keys = keys_of(2)
    h.store(keys, [0, 1])
    request = h.request(keys)
    assert h.settle(keys, request) == [HIT, HIT]
    server.silent.add("load")
    load = h.job(keys, [2, 3], load=True, request=request)
    wait_for(lambda: (h.step(), server.count("load"))[1])
    server.drop_connections()
    assert not h.result(load).success
    wait_for(lambda: (h.step(), h.tier._client.usable)[1])
    assert h.settle(keys, request) == [MISS, MISS]
    assert h.settle(keys, h.request(keys)) == [HIT, HIT]


def test_a_load_of_a_block_that_is_gone_fails_without_successful_keys(harness):
    h = harness()
    result = h.load(keys_of(2), [0, 1])
    assert not result.success and result.successful_keys is None


def test_jobs_larger_than_a_batch_are_cut(harness, server):
    server.batch_keys_max = 7
    h = harness()
    keys = keys_of(SLOTS)
    assert h.store(keys, range(SLOTS)).success
    assert server.count("store") == 10
    assert h.load(keys, range(SLOTS)).success


def test_more_jobs_than_the_window_wait_their_turn(harness, server):
    server.requests_max = 4
    server.delay_s["store"] = 0.01
    h = harness()
    jobs = [h.job(keys_of(1, start=i), [i], load=False) for i in range(20)]
    results = {}

    def collect():
        results.update({each.job_id: each for each in h.tier.get_finished_jobs()})
        return len(results) == len(jobs)

    wait_for(collect)
    assert all(each.success for each in results.values())


def test_no_server_is_an_empty_cache(harness, tmp_path):
    h = harness(socket=tmp_path / "nobody")
    assert h.lookup_all(keys_of(3)) == [MISS] * 3
    store, load = h.job(keys_of(1), [0], load=False), h.job(keys_of(1), [0], load=True)
    finished = {each.job_id: each.success for each in h.tier.get_finished_jobs()}
    assert finished == {store.job_id: False, load.job_id: False}
    assert not h.tier.has_pending_work()


def test_a_server_that_comes_later_is_found(harness, tmp_path):
    from stand_in_server import StandInServer

    h = harness(socket=tmp_path / "later")
    assert h.lookup_all(keys_of(1)) == [MISS]
    with StandInServer(str(tmp_path / "later")):
        wait_for(lambda: (h.step(), h.tier._client.usable)[1])
        assert h.store(keys_of(1), [0]).success
        assert h.settle(keys_of(1), h.request(keys_of(1))) == [HIT]


def test_a_restarted_server_is_used_by_the_first_request_after(harness, server, tmp_path):
    from stand_in_server import StandInServer

    h = harness(lookup_deadline_ms=2000)
    keys = keys_of(3)
    h.store(keys, range(3))
    server.stop()
    with StandInServer(server.path) as again:
        again.blocks.update(server.blocks)
        again.delay_s["hello"] = 0.02  # it opens folders first
        h.tier.get_finished_jobs()  # the engine was idle: this is the first call since
        wait_for(lambda: (h.tier.get_finished_jobs(), h.tier._client.state.value != "down")[1])
        assert h.settle(keys, h.request(keys)) == [HIT] * 3


def test_the_end_of_the_stream_ends_every_job(harness, server):
    h = harness()
    server.silent.update(("store", "load"))
    store, load = h.job(keys_of(1), [0], load=False), h.job(keys_of(1, 5), [1], load=True)
    h.step()
    assert h.tier.has_pending_work() and not list(h.tier.get_finished_jobs())
    server.drop_connections()
    results = {}
    wait_for(lambda: results.update({r.job_id: r.success for r in h.tier.get_finished_jobs()}) or len(results) == 2)
    assert results == {store.job_id: False, load.job_id: False}


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x01\x00\x00\x00\xc1", b"\x05\x00\x00\x00\x81\xa1t\xa1x"])
def test_garbage_does_not_release_slots_before_the_stream_has_ended(harness, server, garbage):
    h = harness()
    server.silent.add("load")
    server.keep_after_end = True
    load = h.job(keys_of(1), [1], load=True)
    server.garbage = garbage
    h.tier.lookup(keys_of(1, 9)[0], h.request(keys_of(1, 9)))
    finished, ends = [], time.monotonic() + 0.2
    while time.monotonic() < ends:
        finished += h.tier.get_finished_jobs()
    assert h.tier._client.state.value == "closing" and not finished
    server.drop_connections()
    assert not h.result(load).success


def test_an_error_for_one_request_fails_that_job_alone(harness, server):
    h = harness()
    server.silent.add("load")
    load = h.job(keys_of(2), [0, 1], load=True)
    wait_for(lambda: (h.step(), server.count("load"))[1])
    server.push({"t": "error", "id": server.seen[-1]["id"], "code": "BUSY", "message": "no", "context": {}})
    assert not h.result(load).success
    server.silent.clear()
    assert h.store(keys_of(1), [0]).success


def test_a_draining_server_gets_nothing_new(harness, server):
    h = harness()
    server.push({"t": "drain"})
    wait_for(lambda: (h.step(), h.tier._client.draining)[1])
    assert h.lookup_all(keys_of(1)) == [MISS]
    assert not h.store(keys_of(1), [0]).success
    assert server.count("store") == 0


def test_a_stopped_server_never_holds_a_call(harness, server_process, timer):
    process = server_process()
    h = harness(socket=process.socket_path, fence_kill_after_s=None, lookup_budget_ms=BUDGET_S * 1000)
    h.store(keys_of(8), range(8))
    os.kill(process.pid, signal.SIGSTOP)
    gc.collect()
    gc.freeze()  # as vLLM does with everything that it has imported
    calls, answers, started = [], [], time.monotonic()
    number = 100
    while time.monotonic() - started < 2.5:
        number += 8
        keys = keys_of(8, start=number)
        request = h.request(keys)
        for call in (
            lambda: answers.append(h.tier.lookup(keys[0], request)),
            lambda: h.job(keys, range(8), load=False),
            lambda: h.job(keys, range(8), load=True),
            lambda: h.tier.get_finished_jobs(),
            lambda: h.tier.on_schedule_end(ScheduleEndContext((), ())),
            lambda: h.tier.on_request_finished(request),
        ):
            calls.append(timer.run(call)[1])
        time.sleep(0.005)
    assert len(calls) > 100 and max(held.asked for held in calls) <= BUDGET_S
    slow = [held for held in calls if held.seconds > CALL_S_MAX]
    assert_none_was_held(slow, max(held.seconds for held in calls), len(calls))
    assert answers[-1] is MISS and answers[-20:] == [MISS] * 20  # not even a RETRY any more
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: (h.step(), h.tier._client.usable)[1])
    wait_for(lambda: (h.step(), not h.tier.has_pending_work())[1])


def test_a_frozen_server_with_transfers_is_ended_and_they_finish(harness, server_process):
    process = server_process()
    h = harness(socket=process.socket_path, fence_kill_after_s=1)
    os.kill(process.pid, signal.SIGSTOP)
    load = h.job(keys_of(1), [0], load=True)
    started = time.monotonic()
    result = h.result(load, timeout_s=10)
    assert not result.success and time.monotonic() - started > 0.9
    assert process.wait(5) == -signal.SIGKILL
    assert h.lookup_all(keys_of(1)) == [MISS]


def test_slow_storage_is_not_a_reason_to_kill(harness, server_process):
    process = server_process("load")  # loads are never answered, pings are
    h = harness(socket=process.socket_path, fence_kill_after_s=1)
    h.job(keys_of(1), [0], load=True)
    ends = time.monotonic() + 2.5
    while time.monotonic() < ends:
        h.step()
        time.sleep(0.01)
    assert process.poll() is None and h.tier.has_pending_work()
    assert h.store(keys_of(1), [0]).success
    process.kill()


def test_after_a_drain_all_results_are_there_at_once(harness, tmp_path):
    h = harness(socket=tmp_path / "nobody")
    jobs = [h.job(keys_of(1, start=i), [0], load=False) for i in range(300)]
    assert 0 < len(list(h.tier.get_finished_jobs())) < len(jobs) and h.tier.has_pending_work()
    h.tier.drain_jobs()
    list(h.tier.get_finished_jobs())
    assert not h.tier.has_pending_work()


def test_drain_waits_for_the_fence(harness, server):
    h = harness()
    server.delay_s["load"] = 0.2
    load = h.job(keys_of(1), [0], load=True)
    started = time.monotonic()
    h.tier.drain_jobs()
    assert time.monotonic() - started > 0.15
    assert [each.job_id for each in h.tier.get_finished_jobs()] == [load.job_id]


def test_events_tell_what_was_stored_and_what_was_removed(harness, server):
    h = harness(enable_kv_events=True)
    keys = keys_of(3)
    server.blocks[keys[0]] = bytes(BLOCK_BYTES)
    h.store(keys, range(3))
    (stored,) = h.tier.take_events()
    assert stored.keys == keys[1:] and not stored.removed  # what was PRESENT is not news
    server.push({"t": "removed", "keys": keys[0] + keys[2], "reason": "evicted"})
    events = []
    wait_for(lambda: (h.step(), events.extend(h.tier.take_events()), events)[2])
    assert events[0].removed and events[0].keys == [keys[0], keys[2]]
    assert list(h.tier.take_events()) == []


def test_no_events_unless_both_switches_are_on(harness, server):
    off = harness(enable_kv_events=True, events=False)
    off.store(keys_of(1), [0])
    assert list(off.tier.take_events()) == []
    assert server.seen[0]["events"] is False


def test_metrics_fit_their_definitions(harness):
    from kvferry_vllm import KvferryTier

    h = harness()
    h.store(keys_of(2), [0, 1])
    h.load(keys_of(3), [0, 1, 2])
    h.settle(keys_of(3), h.request(keys_of(3)))
    definitions = KvferryTier.build_metric_definitions({})
    stats = h.tier.get_stats()
    for name, by_labels in stats.data["data"].items():
        for labels in by_labels:
            assert len(labels) == len(definitions[name].labelnames)
    assert stats.data["data"]["vllm:kvferry_load_blocks"] == {("loaded",): 2, ("miss",): 1}
    assert stats.data["data"]["vllm:kvferry_connected"] == {(): 1.0}
    assert h.tier.get_stats() is None


def test_keys_of_another_size_are_said_in_a_new_hello(harness, server):
    h = harness()
    short = keys_of(2, key_bytes=20)
    wait_for(lambda: h.store(short, [0, 1]).success)
    assert server.seen[0]["keyBytes"] == 36
    assert [each["keyBytes"] for each in server.seen if each["t"] == "hello"][-1] == 20


def test_a_refused_hello_is_an_empty_cache(harness, server, caplog):
    server.refuse = ("INVALID_ARGUMENT", "namespace field 'weights' is missing", {"field": "weights"})
    h = harness()
    assert h.lookup_all(keys_of(1)) == [MISS]
    assert h.tier._client.last_error.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"lookup_budget": 2}, "lookup_budget_ms"),
        ({"lookup_deadline_ms": "fast"}, "lookup_deadline_ms"),
        ({"fence_kill_after_s": 0}, "fence_kill_after_s"),
        ({"weights": "xyz"}, "weights"),
        ({"locality": "MOON"}, "locality"),
        ({"tenant": 5}, "tenant"),
        ({"enable_kv_events": "yes"}, "enable_kv_events"),
        ({"socket": "/" + "x" * 200}, "socket"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix(options, names):
    from kvferry_vllm.config import parse_config

    with pytest.raises(ValueError, match=names):
        parse_config(options)
