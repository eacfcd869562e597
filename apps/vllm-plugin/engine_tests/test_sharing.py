"""The same tokens and every full chunk from the cache: after a restart, beside each other, through two servers, on each storage."""

import pytest
from conftest import CASES, cached, full_chunks, kvferry, storage_of, tokens

PROMPTS = [[0, 1610], [1, 1000], [2, 700]]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def world(case, servers, engines, request, tmp_path_factory):
    """Two engines on one server. The first has filled the storage; the other has been asked nothing."""
    mode, storage = case[0], storage_of(case[1], request, tmp_path_factory)
    server = servers(storage)
    first, beside = engines(kvferry(server, mode)), engines(kvferry(server, mode))
    assert first.ready().startswith("0.32") and beside.ready()
    results = first.run(*PROMPTS)
    assert first("settle")["settled"]
    return {"mode": mode, "storage": storage, "server": server, "first": first, "beside": beside, "results": results}


def test_the_first_engine_finds_nothing(world):
    assert cached(world["results"]) == [0, 0, 0]


def test_the_namespace_is_that_of_the_model(world):
    from kvferry_vllm.fingerprint import fingerprint

    namespace = world["first"]("namespace")
    seen = {"quantization": None, "hf_overrides": {}}  # vLLM's own configuration was found
    assert namespace["weights"] == fingerprint(namespace["model"], load_format="auto", dtype="float32", options=seen)
    assert namespace["engineVersion"] == "0.32" and namespace["dtype"] == "float32" and namespace["parallel"] is None
    assert len(namespace["groups"]) == 1 and len(namespace["groups"][0]["layers"]) == 4


def test_metrics_arrive_where_vllm_shows_its_own(world):
    metrics = world["first"]("metrics")
    assert metrics["vllm:kvferry_connected"] == 1
    assert metrics["vllm:kvferry_store_blocks stored"] == sum(full_chunks(PROMPTS)) // 64


def test_an_engine_beside_it_finds_everything(world):
    again = world["beside"].run(*PROMPTS)
    assert tokens(again) == tokens(world["results"]) and cached(again) == full_chunks(PROMPTS)


def test_after_a_restart_through_another_server_on_the_same_storage(world, servers, engines):
    world["first"].kill()
    restarted = engines(kvferry(servers(world["storage"]), world["mode"]))
    restarted.ready()
    again = restarted.run(*PROMPTS)
    assert tokens(again) == tokens(world["results"]) and cached(again) == full_chunks(PROMPTS)

    # What it stores through its server, the first server finds, even when it was down meanwhile.
    beside, more = world["beside"], [[3, 900]]
    world["server"].kill()
    fresh = restarted.run(*more)
    assert restarted("settle")["settled"] and cached(fresh) == [0]
    world["server"].start()
    assert beside("connected")["connected"] and beside("reset")["reset"]
    found = beside.run(*more, *PROMPTS)
    assert tokens(found) == tokens(fresh) + tokens(world["results"])
    assert cached(found) == full_chunks(more + PROMPTS)
