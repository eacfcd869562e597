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
FILES = ["test_tier.py", "test_namespace.py", "test_registration.py", "test_spec.py"]


@pytest.mark.parametrize("version", ["0.30.0", "0.31.0", "0.33.0"])
def test_the_tier_keeps_its_promises_on(version):
    overlay = OVERLAYS / f"vllm-{version}"
    if not overlay.is_dir():
        pytest.skip(f"{overlay} is not there")
    path = os.pathsep.join([str(overlay), str(HERE.parent / "src")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", *(str(HERE / name) for name in FILES), "-x"],
        env={**os.environ, "PYTHONPATH": path, "EXPECTED_VLLM": version},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
