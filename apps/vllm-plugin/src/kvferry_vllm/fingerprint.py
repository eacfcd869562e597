"""The identity of a model's weights: 32 bytes that change when the weights do, in well under a second.

A model's name and path do not tell: a fine-tune saved over its base, a new revision of the same name or a requantized
copy would be served KV cache of other weights. Reading tens of gigabytes at every start is no answer either. So the
fingerprint is a SHA-256 over

  * config.json,
  * of every shard: its name, its size and, for safetensors, its header (names, types, shapes and places of all tensors),
  * sampled bytes: of safetensors a few from inside every tensor (or of as many as `SAMPLES_MAX` allows, spread evenly),
    of other files some spread evenly over the file, first and last included,
  * the options that change what the same files compute: quantization, overrides of the model's configuration.

Where no weights are on disk, or they are not used (`load_format: dummy`), it is derived from config.json, the load
format, the model's name, the revision and the dtype. It then tells nothing about the bytes: `weights` in the tier's
configuration overrides it.

LoRA adapters are not part of it: vLLM puts an adapter's name (0.30) or name and path (0.31 and newer) into the block
hashes. Weights replaced under the same adapter name and path are seen by neither.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from typing import Any

SAMPLES_MAX = 4096  # preads over all shards; about 0.1 ms each on a drive that has cached nothing
SAMPLES_PER_SHARD_MIN = 8
SAMPLE_BYTES = 64
HEADER_BYTES_MAX = 100 * 2**20  # what the safetensors library itself accepts
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
DUMMY_LOAD_FORMATS = ("dummy",)


def fingerprint(
    model: str,
    *,
    revision: str | None = None,
    load_format: str | None = None,
    download_dir: str | None = None,
    dtype: str = "",
    options: dict[str, Any] | None = None,
) -> str:
    """Hex SHA-256 of the weights of `model`: a folder, a GGUF file or a name in the Hugging Face cache.

    Args:
        options: whatever else changes what the weights compute; part of the hash as canonical JSON.
    """
    digest = hashlib.sha256(b"kvferry weights 1\0")
    _add(digest, json.dumps(options or {}, sort_keys=True, separators=(",", ":"), default=str).encode())
    folder = model_folder(model, revision, download_dir)
    shards = _weight_files(folder) if folder else []
    _add(digest, _read_if_there(os.path.join(folder, "config.json")) if folder and os.path.isdir(folder) else b"")
    if not shards or load_format in DUMMY_LOAD_FORMATS:
        derived = ["derived", load_format or "auto", model, revision or "", dtype]
        _add(digest, json.dumps(derived, separators=(",", ":")).encode())
        return digest.hexdigest()
    samples_each = max(SAMPLES_PER_SHARD_MIN, SAMPLES_MAX // len(shards))
    for path in shards:
        _add_shard(digest, path, samples_each)
    return digest.hexdigest()


def model_folder(model: str, revision: str | None = None, download_dir: str | None = None) -> str | None:
    """Where the files of a model are: the folder (or file) itself, or its snapshot in the Hugging Face cache."""
    if os.path.exists(model):
        return model
    cache = download_dir or _hugging_face_cache()
    repository = os.path.join(cache, "models--" + model.replace("/", "--"))
    wanted = revision or "main"
    commit = _read_if_there(os.path.join(repository, "refs", wanted)).decode("ascii", "replace").strip() or wanted
    snapshot = os.path.join(repository, "snapshots", commit)
    return snapshot if os.path.isdir(snapshot) else None


def _hugging_face_cache() -> str:
    if path := os.environ.get("HF_HUB_CACHE"):
        return path
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    return os.path.join(home, "hub")


def _weight_files(path: str) -> list[str]:
    """The files that hold weights, by name. Safetensors win over other formats, as they do when vLLM loads."""
    if os.path.isfile(path):
        return [path]
    names = sorted(name for name in os.listdir(path) if name.endswith(WEIGHT_SUFFIXES))
    safetensors = [name for name in names if name.endswith(".safetensors")]
    return [os.path.join(path, name) for name in safetensors or names]


def _add_shard(digest: Any, path: str, samples: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        _add(digest, os.path.basename(path).encode())
        _add(digest, str(size).encode())
        header, data_at = _safetensors_header(fd, size) if path.endswith(".safetensors") else (b"", 0)
        _add(digest, header)
        for offset in _sample_offsets(header, data_at, size, samples):
            _add(digest, os.pread(fd, SAMPLE_BYTES, offset))
    finally:
        os.close(fd)


def _safetensors_header(fd: int, size: int) -> tuple[bytes, int]:
    """The header and where the data begins; nothing where the file is not what its name says."""
    prefix = os.pread(fd, 8, 0)
    if len(prefix) < 8:
        return b"", 0
    (length,) = struct.unpack("<Q", prefix)
    if length > min(HEADER_BYTES_MAX, size - 8):
        return b"", 0
    return os.pread(fd, length, 8), 8 + length


def _sample_offsets(header: bytes, data_at: int, size: int, samples: int) -> Iterable[int]:
    spans = _tensor_spans(header)
    if spans:
        step = max(1.0, len(spans) / samples)
        count = min(len(spans), samples)
        for i in range(count):
            begin, end = spans[int(i * step)]
            yield data_at + max(begin, begin + (end - begin - SAMPLE_BYTES) // 2)
        return
    last = max(0, size - SAMPLE_BYTES)
    for i in range(samples):
        yield last * i // (samples - 1)


def _tensor_spans(header: bytes) -> list[tuple[int, int]]:
    if not header:
        return []
    try:
        entries = json.loads(header)
        spans = [tuple(entry["data_offsets"]) for name, entry in entries.items() if name != "__metadata__"]
        return sorted(spans)
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _read_if_there(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _add(digest: Any, data: bytes) -> None:
    """Length first, so that no two lists of parts hash alike."""
    digest.update(struct.pack("<Q", len(data)))
    digest.update(data)
