"""The same behaviour on every vLLM that is supported: the tier's tests again, over other versions' classes.

The versions lie in `.cache/vllm-<version>` (scripts/setup-python.mjs puts them there) or in KVFERRY_VLLM_OVERLAYS. 0.33 has no
CPU wheel: its Python classes alone are enough for the tier, not for an engine.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
OVERLAYS = Path(os.environ.get("KVFERRY_VLLM_OVERLAYS") or HERE.parents[2] / ".cache")
FILES = ["test_tier.py", "test_namespace.py", "test_registration.py", "test_spec.py", "test_direct.py", "test_direct_parts.py"]


VERSIONS = ["0.30.0", "0.31.0", "0.33.0"]


@pytest.fixture(scope="module")
def runs():
    """All versions at once: most of a run is imports."""
    started = {}
    for version in VERSIONS:
        overlay = OVERLAYS / f"vllm-{version}"
        if not overlay.is_dir():
            continue
        path = os.pathsep.join([str(overlay), str(HERE.parent / "src")])
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-x", *(str(HERE / name) for name in FILES)]
        started[version] = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, "EXPECTED_VLLM": version},
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    yield started
    for process in started.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_tier_keeps_its_promises_on(version, runs):
    if version not in runs:
        pytest.skip(f"{OVERLAYS / f'vllm-{version}'} is not there")
    output, _ = runs[version].communicate(timeout=400)
    assert runs[version].returncode == 0, output[-6000:]
