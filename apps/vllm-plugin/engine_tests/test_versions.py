"""Other vLLMs, other models."""

import pytest
from conftest import MemoryStorage, PosixStorage, cached, full_chunks, kvferry, tokens

PROMPTS = [[0, 1610], [1, 1000], [2, 700]]


MODES = {"tier": PosixStorage, "direct": MemoryStorage}


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("version", ["0.30.0", "0.31.0"])
def test_after_a_restart_on(version, mode, servers, engines, tmp_path):
    server = servers(MODES[mode](tmp_path / "data"))
    first, second = (engines(kvferry(server, mode), version=version) for _ in range(2))
    assert first.ready().startswith(version) and second.ready()
    hand_over(first, second, PROMPTS)


@pytest.mark.parametrize("mode", list(MODES))
def test_a_model_with_sliding_windows_and_several_groups(mode, servers, engines, tmp_path):
    server = servers(MODES[mode](tmp_path / "data"))
    first, second = (engines(kvferry(server, mode), kind="gemma") for _ in range(2))
    assert first.ready() and second.ready()
    assert first("groups")["groups"] > 1
    hand_over(first, second, [[0, 1000], [1, 800]])


def hand_over(first, second, prompts):
    """The first fills the cache and dies; the second, which has seen nothing, finds it. Both have started together to save time."""
    results = first.run(*prompts)
    assert first("settle")["settled"] and cached(results) == [0] * len(prompts)
    first.kill()
    again = second.run(*prompts)
    assert tokens(again) == tokens(results) and cached(again) == full_chunks(prompts)
    second.kill()
