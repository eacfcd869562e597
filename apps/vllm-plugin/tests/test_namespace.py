"""The fields that keep different bytes apart."""

from dataclasses import replace
from types import SimpleNamespace

from helpers import offloading_config

from kvferry_vllm.namespace import namespace_fields, parallel_fields, vllm_fs_names
from kvferry_vllm.vllm_config import config_value, hash_bytes

FIELDS = {
    "model", "weights", "dtype", "kvDtype", "layout", "tokensPerHash", "blocksPerChunk", "groups", "parallel", "engine",
    "engineVersion", "formatVersion", "tenant",
}  # fmt: skip


def fields(config=None, **changes):
    return namespace_fields(config or offloading_config(**changes), None, "0.32.0+cpu", weights="ab" * 32)


def test_has_exactly_the_fields_that_the_server_knows():
    assert set(fields()) == FIELDS


def test_says_what_the_configuration_says():
    made = fields()
    assert made["model"] == "some/model" and made["kvDtype"] == made["dtype"] == "bfloat16"
    assert made["engine"] == "vllm" and made["engineVersion"] == "0.32"
    assert made["groups"] == [{"tokensPerBlock": 32, "layers": ["l0", "l1"]}]
    assert made["tokensPerHash"] == 32 and made["blocksPerChunk"] == 1
    assert made["layout"].startswith("vllm-tier:") and ":LBHNC" in made["layout"]


def test_a_row_of_one_worker_does_not_depend_on_workers():
    assert fields()["parallel"] is None


def test_a_row_of_several_workers_does():
    parallel = replace(offloading_config().parallel, world_size=2, tp_size=2)
    assert parallel_fields(offloading_config(parallel=parallel)) == {"tp": 2, "pp": 1, "pcp": 1, "dcp": 1, "rank": 0}


def test_one_copy_of_several_workers_does_not():
    parallel = replace(offloading_config().parallel, world_size=2, tp_size=2)
    assert parallel_fields(offloading_config(parallel=parallel, canonical_layout=True)) is None
    agnostic = replace(parallel, is_parallelism_agnostic=False)
    assert parallel_fields(offloading_config(parallel=agnostic, replicated_layout=True)) is None
    assert parallel_fields(offloading_config(parallel=agnostic)) is not None


def test_kinds_of_rows_have_names_of_their_own():
    layouts = {
        fields()["layout"],
        fields(canonical_layout=True)["layout"],
        fields(replicated_layout=True)["layout"],
        fields(kv_cache_layout="BLHNC")["layout"],
    }
    assert len(layouts) == 4


def test_the_models_dtype_is_told_apart_from_the_caches():
    config = SimpleNamespace(model_config=SimpleNamespace(dtype="torch.float16", model="some/model"))
    made = namespace_fields(offloading_config(), config, "0.30.1")
    assert (made["dtype"], made["kvDtype"], made["engineVersion"]) == ("float16", "bfloat16", "0.30")


def test_vllm_fs_names_are_vllms_own(tmp_path):
    from vllm.v1.kv_offload.file_mapper import FileMapper

    spec = SimpleNamespace(config=offloading_config(), blocks_per_chunk=1)
    names = vllm_fs_names(spec)
    mapper = FileMapper.from_offloading_spec(str(tmp_path), spec, 1, parallel_agnostic=True)
    assert mapper.base_path == f"{tmp_path}/{names['base']}" and names["rank"] == 0
    assert names["base"].startswith("some_model_")


def test_the_size_of_a_hash_follows_the_algorithm():
    def config(algorithm):
        return SimpleNamespace(cache_config=SimpleNamespace(prefix_caching_hash_algo=algorithm))

    assert hash_bytes(None) == hash_bytes(config("sha256")) == hash_bytes(config("sha256_cbor")) == 32
    assert hash_bytes(config("xxhash")) == 16
    assert config_value(None, "a.b") is None
