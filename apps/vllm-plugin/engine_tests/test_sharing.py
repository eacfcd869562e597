"""The same tokens and every full chunk from the cache: after a restart, beside each other, through two servers, on each vLLM."""

import pytest
from conftest import cached, full_chunks, kvferry, tokens

PROMPTS = [[0, 1610], [1, 1000], [2, 700]]


@pytest.fixture(scope="module")
def world(servers, engines, tmp_path_factory):
    """Two engines on one server. The first has filled the folder; the other has been asked nothing."""
    data = tmp_path_factory.mktemp("data")
    server = servers(data)
    first, beside = engines(kvferry(server)), engines(kvferry(server))
    assert first.ready().startswith("0.32") and beside.ready()
    results = first.run(*PROMPTS)
    assert first("settle")["settled"]
    return {"data": data, "server": server, "first": first, "beside": beside, "results": results}


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


def test_after_a_restart_through_another_server_on_the_same_folder(world, servers, engines):
    world["first"].kill()
    restarted = engines(kvferry(servers(world["data"])))
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


@pytest.mark.parametrize("version", ["0.30.0", "0.31.0"])
def test_after_a_restart_on(version, servers, engines, tmp_path):
    server = servers(tmp_path / "data")
    first, second = engines(kvferry(server), version=version), engines(kvferry(server), version=version)
    assert first.ready().startswith(version) and second.ready()
    hand_over(first, second, PROMPTS)


def test_a_model_with_sliding_windows_and_several_groups(servers, engines, tmp_path):
    server = servers(tmp_path / "data")
    first, second = engines(kvferry(server), kind="gemma"), engines(kvferry(server), kind="gemma")
    assert first.ready() and second.ready()
    assert len(first("groups")["groups"]) > 1
    hand_over(first, second, [[0, 1000], [1, 800]])


def hand_over(first, second, prompts):
    """The first fills the cache and dies; the second, which has seen nothing, finds it. Both have started together to save time."""
    results = first.run(*prompts)
    assert first("settle")["settled"] and cached(results) == [0] * len(prompts)
    first.kill()
    again = second.run(*prompts)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(prompts)
    second.kill()
