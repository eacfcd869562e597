"""`{"type": "kvferry"}` and `{"type": "KvferryTier", "module_path": "kvferry_vllm"}` both find the tier."""

from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory

from kvferry_vllm import KvferryTier
from kvferry_vllm.registration import register


def test_registering_twice_is_registering_once():
    register()
    register()
    assert SecondaryTierFactory.get_tier_class({"type": "kvferry"}) is KvferryTier


def test_the_tier_is_found_by_its_module():
    assert SecondaryTierFactory.get_tier_class({"type": "KvferryTier", "module_path": "kvferry_vllm"}) is KvferryTier


def test_the_entry_point_names_it():
    from pathlib import Path

    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert '[project.entry-points."vllm.general_plugins"]\nkvferry = "kvferry_vllm.registration:register"' in text


def test_the_factory_builds_it_with_its_options(server):
    from types import SimpleNamespace

    from helpers import offloading_config
    from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion

    register()
    config = offloading_config()
    region = SharedOffloadRegion(config.engine_id, 4, None, 4096, 4096)
    view = region.create_kv_memoryview()
    spec = SimpleNamespace(
        config=config,
        _scheduler_mmap=region,
        blocks_per_chunk=1,
        kv_events_config=SimpleNamespace(enable_kv_cache_events=False),
    )
    options = {"type": "kvferry", "socket": server.path, "locality": "remote", "weights": "ab" * 16}
    tier = SecondaryTierFactory.create_secondary_tier(options, view, spec)
    assert tier.tier_type == "kvferry" and tier.locality.value == "REMOTE" and tier.medium.value == "STORAGE"
    tier.shutdown()
    view.release()
    region.cleanup()
