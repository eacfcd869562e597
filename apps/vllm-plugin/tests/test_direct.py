"""Direct mode's manager and worker over the stand-in, which really moves the bytes."""

import pytest
from direct_helpers import PER_CHUNK, same
from helpers import keys_of, wait_for
from vllm.v1.kv_offload.base import LookupResult, ReqContext

HIT, MISS, RETRY, PENDING = LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY, LookupResult.HIT_PENDING
BATCHED = hasattr(ReqContext("x"), "_offload_key_positions")
needs_positions = pytest.mark.skipif(not BATCHED, reason="vLLM 0.30 does not tell a request's keys in advance")


def all_is_given_back(server, engine):
    """Every HOLD that was answered LOADED has been taken back exactly once."""
    wait_for(lambda: (engine.step(), not server.is_held)[1])
    holds = engine.manager._holds
    assert server.wrong_releases == 0
    assert server.held_ever == server.released_ever == holds.held_count == holds.released_count and holds.ended_count == 0
    return True


def test_bytes_come_back_as_they_were_stored(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(4)
    before = engine.pages(0, range(8))
    engine.store(keys, engine.blocks(list(range(8))))
    engine.wipe()
    request = engine.request(keys)
    assert engine.settle(keys, request) == [HIT] * 4
    engine.load(keys, engine.blocks(list(range(20, 28))), request)
    assert same(engine.pages(0, range(20, 28)), before)
    assert all_is_given_back(direct_server, engine)


def test_groups_chunks_that_begin_in_the_middle_and_padded_pages(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(3)
    first, second = engine.pages(0, [3, 4, 5]), engine.pages(1, [9, 10])
    from vllm.v1.kv_offload.base import GPULoadStoreSpec

    engine.store(keys, GPULoadStoreSpec([2, 3, 4, 5, 9, 10], [4, 2], [0, 6]))
    engine.wipe()
    request = engine.request(keys)
    engine.settle(keys, request)
    engine.load(keys, GPULoadStoreSpec([30, 31, 32, 40, 41], [3, 2], [1, 6]), request)
    assert same(engine.pages(0, [30, 31, 32]), first) and same(engine.pages(1, [40, 41]), second)
    assert not engine.caches[0].tensors[0].tensor[40, -64:].any()  # padding is nobody's data
    assert not any(each.any() for each in engine.pages(0, [29, 33]))


def test_each_rank_has_its_part(direct, direct_server):
    engine = direct(direct_server.path, workers=2)
    keys = keys_of(3)
    before = engine.pages(0, range(6))
    engine.store(keys, engine.blocks(list(range(6))))
    engine.wipe()
    request = engine.request(keys)
    assert engine.settle(keys, request) == [HIT] * 3
    engine.load(keys, engine.blocks(list(range(6))), request)
    assert same(engine.pages(0, range(6)), before)
    assert all_is_given_back(direct_server, engine)


def test_a_replicated_layout_is_stored_once_and_loaded_by_all(direct, direct_server):
    engine = direct(direct_server.path, workers=2, replicated=True)
    keys = keys_of(2)
    before = engine.pages(0, range(4))
    engine.store(keys, engine.blocks(list(range(4))))
    assert direct_server.gathered == 2
    hellos = [each["direct"] for each in direct_server.seen if each["t"] == "hello"]
    assert [each.get("stores") for each in hellos] == [True, False, None] and {each["parts"] for each in hellos} == {1}
    engine.wipe()
    request = engine.request(keys)
    engine.settle(keys, request)
    engine.load(keys, engine.blocks(list(range(4))), request)
    assert same(engine.pages(0, range(4)), before)


@needs_positions
def test_blocks_in_the_arena_are_hits_in_the_step_that_asks(direct, direct_server):
    engine = direct(direct_server.path, groups=1, lookup_budget_ms=500)
    keys = keys_of(10)
    engine.store(keys[:6], engine.blocks(list(range(12))))
    direct_server.seen.clear()
    request = engine.request(keys)
    assert [engine.manager.lookup(key, request) for key in keys] == [HIT] * 6 + [MISS] * 4
    assert direct_server.count("lookup") == 1 and direct_server.count("hold") == 1


def test_with_several_groups_only_what_is_looked_up_is_held(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(8)
    engine.store(keys, engine.blocks(list(range(16))))
    request = engine.request(keys)
    assert engine.settle(keys[5:], request) == [HIT] * 3
    assert {key for _, key in direct_server.is_held} == set(keys[5:])
    engine.manager.on_request_finished(request)
    assert all_is_given_back(direct_server, engine)


def test_a_block_is_held_once_however_many_requests_need_it(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(4)
    engine.store(keys, engine.blocks(list(range(8))))
    requests = [engine.request(keys) for _ in range(3)]
    for request in requests:
        assert engine.settle(keys, request) == [HIT] * 4
    assert direct_server.held_ever == 4
    engine.manager.on_request_finished(requests[0])
    engine.load(keys, engine.blocks(list(range(20, 28))), requests[1])
    engine.step()
    assert len(direct_server.is_held) == 4  # the third request needs them still
    engine.manager.on_request_finished(requests[2])
    assert all_is_given_back(direct_server, engine)


def test_what_is_not_held_is_a_miss_and_is_not_asked_again(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(4)
    engine.store(keys, engine.blocks(list(range(8))))
    direct_server.hold_outcomes[keys[2]] = (6, 20)  # CORRUPT
    request = engine.request(keys)
    assert engine.settle(keys, request) == [HIT, HIT, MISS, HIT]
    asked = direct_server.count("hold")
    assert engine.settle(keys, request) == [HIT, HIT, MISS, HIT] and direct_server.count("hold") == asked
    engine.manager.on_request_finished(request)
    assert all_is_given_back(direct_server, engine)


def test_a_busy_server_is_asked_again_for_a_while(direct, direct_server):
    engine = direct(direct_server.path, lookup_deadline_ms=300)
    keys = keys_of(2)
    engine.store(keys, engine.blocks(list(range(4))))
    direct_server.hold_outcomes = dict.fromkeys(keys, (0, 8))
    request = engine.request(keys)
    wait_for(lambda: ([engine.manager.lookup(key, request) for key in keys], engine.step(), direct_server.count("hold") > 2)[2])
    direct_server.hold_outcomes = {}
    assert engine.settle(keys, request) == [HIT, HIT]
    direct_server.hold_outcomes = dict.fromkeys(keys_of(4), (0, 8))
    engine.manager.on_request_finished(request)
    engine.step()
    assert engine.settle(keys, engine.request(keys)) == [MISS, MISS]


def test_blocks_that_are_brought_from_a_slow_tier_are_pending(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(2)
    engine.store(keys, engine.blocks(list(range(4))))
    direct_server.delay_s["hold"] = 0.1
    request = engine.request(keys)
    wait_for(lambda: (engine.step(), engine.manager.lookup(keys[0], request) is PENDING)[1])
    assert engine.manager.has_pending_work()
    assert engine.settle(keys, request) == [HIT, HIT]


@pytest.mark.parametrize("ends", ["finished while the hold is asked", "finished before the load", "scheduled without a load", "reset"])
def test_what_is_held_for_nothing_is_given_back(direct, direct_server, ends, monkeypatch):
    from kvferry_vllm.direct import holds

    monkeypatch.setattr(holds, "INTEREST_S_MAX", 0.05)
    monkeypatch.setattr(holds, "TIDY_S", 0.01)
    engine = direct(direct_server.path)
    keys = keys_of(4)
    engine.store(keys, engine.blocks(list(range(8))))
    request = engine.request(keys)
    if ends == "finished while the hold is asked":
        direct_server.delay_s["hold"] = 0.05
        wait_for(lambda: ([engine.manager.lookup(key, request) for key in keys], engine.step(), direct_server.count("hold"))[2])
        engine.manager.on_request_finished(request)
    else:
        assert engine.settle(keys, request) == [HIT] * 4
    if ends == "finished before the load":
        engine.manager.on_request_finished(request)
    if ends == "reset":
        engine.manager.reset_cache()
    wait_for(lambda: (engine.step(), direct_server.held_ever and not engine.manager._holds.is_asking)[1])
    assert all_is_given_back(direct_server, engine)


def test_a_load_keeps_its_blocks_when_its_request_ends_before_it(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(2)
    before = engine.pages(0, range(4))
    engine.store(keys, engine.blocks(list(range(4))))
    request = engine.request(keys)
    engine.settle(keys, request)
    direct_server.silent.add("scatter")
    job = engine.begin_load(keys, engine.blocks([10, 11, 12, 13]), request)
    engine.manager.on_request_finished(request)
    for _ in range(20):
        engine.step()
    assert len(direct_server.is_held) == 2
    direct_server.drop_connections()
    engine.run(job)
    assert same(engine.pages(0, [10, 11, 12, 13]), before)
    engine.manager.complete_load(keys, request)


def test_a_reset_keeps_what_workers_are_still_copying(direct, direct_server, monkeypatch):
    from kvferry_vllm.direct import holds

    monkeypatch.setattr(holds, "RESET_S", 0.2)
    monkeypatch.setattr(holds, "TIDY_S", 0.01)
    engine = direct(direct_server.path)
    keys = keys_of(2)
    engine.store(keys, engine.blocks(list(range(4))))
    request = engine.request(keys)
    engine.settle(keys, request)
    direct_server.delay_s["scatter"] = 0.05
    job = engine.begin_load(keys, engine.blocks([10, 11, 12, 13]), request)
    engine.manager.reset_cache()
    engine.step()
    assert len(direct_server.is_held) == 2
    engine.run(job)
    engine.manager.on_reset_flushed()
    assert all_is_given_back(direct_server, engine)


def test_what_is_there_or_under_way_is_not_stored_again(direct, direct_server):
    engine = direct(direct_server.path)
    keys = keys_of(3)
    engine.store(keys[:2], engine.blocks(list(range(4))))
    assert engine.manager.prepare_store(keys, engine.request()).keys_to_store == keys[2:]
    assert engine.manager.prepare_store(keys, engine.request()).keys_to_store == []
    direct_server.push({"t": "removed", "keys": keys[0], "reason": "evicted"})
    wait_for(lambda: (engine.step(), engine.manager.prepare_store(keys[:1], engine.request()).keys_to_store)[1] == keys[:1])


def test_batches_larger_than_the_servers_have_a_ticket_each(direct, direct_server):
    direct_server.batch_keys_max = 3
    engine = direct(direct_server.path)
    keys = keys_of(8)
    before = engine.pages(0, range(16))
    engine.store(keys, engine.blocks(list(range(16))))
    assert [each["ticket"] for each in direct_server.seen if each["t"] == "gather"] == [0, 1, 2]
    request = engine.request(keys)
    engine.wipe()
    assert engine.settle(keys, request) == [HIT] * 8
    engine.load(keys, engine.blocks(list(range(16))), request)
    assert same(engine.pages(0, range(16)), before)
    assert all_is_given_back(direct_server, engine)


def test_a_chunk_that_lacks_a_block_is_not_stored(direct, direct_server):
    """Its request's window has left the block: whoever loads the chunk may need it."""
    engine = direct(direct_server.path)
    keys = keys_of(2)
    job = engine.begin_store(keys, engine.blocks([1, 2, 3], first=1))
    assert [each.job_id for each in engine.workers[0].get_finished()] == [job]
    assert direct_server.gathered == 0 and engine.workers[0].dropped_blocks == 2


def test_events_tell_what_was_stored_and_what_was_removed(direct, direct_server):
    engine = direct(direct_server.path, enable_kv_events=True)
    keys = keys_of(3)
    direct_server.blocks[keys[0]] = bytes(direct_server.slot_bytes)
    request = engine.request(keys)
    job = engine.begin_store(keys, engine.blocks(list(range(6))), request)
    engine.workers[0].wait({job})
    engine.manager.complete_store(keys, request)
    events = []
    wait_for(lambda: (engine.step(), events.extend(engine.manager.take_events()), events)[2])
    assert events[0].keys == keys[1:] and not events[0].removed  # what was PRESENT is not news
    direct_server.push({"t": "removed", "keys": keys[0] + keys[2], "reason": "evicted"})
    wait_for(lambda: (engine.step(), events.extend(engine.manager.take_events()), len(events) == 2)[2])
    assert events[1].removed and events[1].keys == [keys[0], keys[2]]


def test_metrics_fit_their_definitions(direct, direct_server):
    from kvferry_vllm import KvferrySpec

    engine = direct(direct_server.path)
    keys = keys_of(3)
    engine.store(keys[:2], engine.blocks(list(range(4))))
    request = engine.request(keys)
    engine.settle(keys, request)
    engine.load(keys[:2], engine.blocks(list(range(4))), request)
    definitions = KvferrySpec.build_metric_definitions({})
    stats = engine.manager.get_stats().data["data"]
    for name, by_labels in stats.items():
        for labels in by_labels:
            assert len(labels) == len(definitions[name].labelnames)
    assert stats["vllm:kvferry_load_blocks"] == {("loaded",): 2}
    assert stats["vllm:kvferry_store_blocks"] == {("stored",): 2}
    assert stats["vllm:kvferry_hold_blocks"] == {("loaded",): 2}


def test_keys_of_another_size_are_said_in_a_new_hello(direct, direct_server):
    engine = direct(direct_server.path)
    short = keys_of(2, key_bytes=20)
    before = engine.pages(0, range(4))
    wait_for(lambda: (engine.step(), engine.store(short, engine.blocks(list(range(4)))), short[0] in direct_server.blocks)[2], 30)
    engine.wipe()
    request = engine.request(short)
    wait_for(lambda: engine.settle(short, request) == [HIT, HIT])
    engine.load(short, engine.blocks(list(range(2 * PER_CHUNK))), request)
    assert same(engine.pages(0, range(4)), before)
