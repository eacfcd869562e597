"""The same tokens and every full chunk from the cache: after a restart, beside each other, through two servers, on each vLLM."""

import pytest
from conftest import cached, full_chunks, kvferry, tokens

PROMPTS = [[0, 1610], [1, 1000], [2, 700]]


@pytest.fixture(scope="module")
def filled(servers, engines, tmp_path_factory):
    """An engine that has filled the folder through its server, and what it answered."""
    data = tmp_path_factory.mktemp("data")
    server = servers(data)
    engine = engines(kvferry(server))
    assert engine.ready().startswith("0.32")
    results = engine.run(*PROMPTS)
    assert engine("settle")["settled"]
    return data, server, engine, results


def test_the_first_engine_finds_nothing(filled):
    assert cached(filled[3]) == [0, 0, 0]


def test_an_engine_beside_it_finds_everything(filled, engines):
    _, server, _, results = filled
    beside = engines(kvferry(server))
    beside.ready()
    again = beside.run(*PROMPTS)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(PROMPTS)


def test_after_a_restart_through_another_server_on_the_same_folder(filled, servers, engines):
    data, server, engine, results = filled
    engine.kill()
    other = servers(data)
    restarted = engines(kvferry(other))
    restarted.ready()
    again = restarted.run(*PROMPTS)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(PROMPTS)
    # and what it stores through its server, the first server finds
    more = [[3, 900]]
    fresh = restarted.run(*more)
    assert restarted("settle")["settled"] and cached(fresh) == [0]
    server.kill()
    server.start()  # a restarted server knows what is in the folder
    third = engines(kvferry(server))
    third.ready()
    found = third.run(*more, *PROMPTS)
    assert tokens(found) == tokens(fresh) + tokens(results)
    assert cached(found) == full_chunks(more + PROMPTS)


@pytest.mark.parametrize("version", ["0.30.0", "0.31.0"])
def test_after_a_restart_on(version, servers, engines, tmp_path):
    server = servers(tmp_path / "data")
    first = engines(kvferry(server), version=version)
    assert first.ready().startswith(version)
    results = first.run(*PROMPTS)
    assert first("settle")["settled"] and cached(results) == [0, 0, 0]
    first.kill()
    second = engines(kvferry(server), version=version)
    second.ready()
    again = second.run(*PROMPTS)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(PROMPTS)


def test_a_model_with_sliding_windows_and_several_groups(servers, engines, tmp_path):
    prompts = [[0, 1000], [1, 800]]
    server = servers(tmp_path / "data")
    first = engines(kvferry(server), kind="gemma")
    first.ready()
    assert len(first("groups")["groups"]) > 1
    results = first.run(*prompts)
    assert first("settle")["settled"]
    first.kill()
    second = engines(kvferry(server), kind="gemma")
    second.ready()
    again = second.run(*prompts)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(prompts)
