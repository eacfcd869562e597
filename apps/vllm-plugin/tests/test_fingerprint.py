"""Weights that differ must never share a cache."""

import json
import os
import struct

import numpy as np
import pytest

from kvferry_vllm.fingerprint import SAMPLES_MAX, fingerprint, model_folder


def write_shard(path, tensors):
    entries, data = {}, b""
    for name, array in tensors.items():
        entries[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"hidden_size": 64}')
    for shard in range(3):
        tensors = {f"layer.{shard}.{i}": rng.random((64, 64), dtype=np.float32) for i in range(8)}
        write_shard(folder / f"model-{shard}.safetensors", tensors)
    return folder


def test_equal_copies_have_equal_fingerprints(model, tmp_path):
    import shutil

    copy = shutil.copytree(model, tmp_path / "elsewhere")
    assert fingerprint(str(model)) == fingerprint(str(copy))
    assert len(bytes.fromhex(fingerprint(str(model)))) == 32


def test_one_changed_tensor_changes_it(model):
    before = fingerprint(str(model))
    path = model / "model-1.safetensors"
    data = bytearray(path.read_bytes())
    tensor_bytes = 64 * 64 * 4
    at = len(data) - 3 * tensor_bytes
    data[at : at + tensor_bytes] = np.ones(64 * 64, dtype=np.float32).tobytes()
    path.write_bytes(data)
    assert fingerprint(str(model)) != before


@pytest.mark.parametrize("change", ["config", "header", "size", "name", "missing"])
def test_whatever_else_changes_changes_it(model, change):
    before = fingerprint(str(model))
    shard = model / "model-0.safetensors"
    if change == "config":
        (model / "config.json").write_text('{"hidden_size": 64, "rope_theta": 2}')
    elif change == "header":
        shard.write_bytes(shard.read_bytes().replace(b"layer.0.0", b"layer.0.9"))
    elif change == "size":
        shard.write_bytes(shard.read_bytes() + bytes(4))
    elif change == "name":
        shard.rename(model / "model-7.safetensors")
    else:
        shard.unlink()
    assert fingerprint(str(model)) != before


def test_options_that_change_what_is_computed_change_it(model):
    assert fingerprint(str(model), options={"quantization": "fp8"}) != fingerprint(str(model))


def test_files_that_are_not_safetensors_are_sampled(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(100_000))
    before = fingerprint(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(50_000) + b"\1" * 50_000)
    assert fingerprint(str(tmp_path)) != before


def test_a_broken_header_is_no_reason_to_fail(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 50)
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 4) + b"oops" + bytes(100))
    (tmp_path / "c.safetensors").write_bytes(b"")
    assert fingerprint(str(tmp_path)) == fingerprint(str(tmp_path))


def test_the_hugging_face_cache_is_followed(model, tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    snapshot = hub / "models--org--name" / "snapshots" / "abc123"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(model)
    (hub / "models--org--name" / "refs").mkdir()
    (hub / "models--org--name" / "refs" / "main").write_text("abc123")
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    assert model_folder("org/name") == str(snapshot)
    assert model_folder("org/name", revision="abc123") == str(snapshot)
    assert fingerprint("org/name") == fingerprint(str(model))
    assert fingerprint("org/name", download_dir=str(hub)) == fingerprint(str(model))


def test_without_weights_it_is_derived_from_what_is_known(model):
    dummy = fingerprint(str(model), load_format="dummy", dtype="bfloat16")
    assert dummy == fingerprint(str(model), load_format="dummy", dtype="bfloat16")
    assert dummy != fingerprint(str(model))
    assert dummy != fingerprint(str(model), load_format="dummy", dtype="float16")
    assert fingerprint("nobody/has-this", revision="1") != fingerprint("nobody/has-this", revision="2")


def test_many_shards_are_read_in_a_bounded_number_of_samples(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shards, reads, pread = 100, [], os.pread
    for shard in range(shards):
        write_shard(tmp_path / f"m-{shard:03}.safetensors", {f"t{i}": rng.random((8, 64), dtype=np.float32) for i in range(200)})
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: (reads.append(length), pread(fd, length, offset))[1])
    fingerprint(str(tmp_path))
    assert shards < len(reads) <= SAMPLES_MAX + 2 * shards
