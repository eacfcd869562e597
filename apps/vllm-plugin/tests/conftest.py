import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_PLUGINS", "")


@pytest.fixture
def server(tmp_path):
    from stand_in_server import StandInServer

    with StandInServer(str(tmp_path / "s")) as server:
        yield server


@pytest.fixture
def harness(server):
    from helpers import TierHarness

    made = []

    def make(**options):
        made.append(TierHarness(options.pop("socket", server.path), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def direct_server(tmp_path):
    from stand_in_direct import DirectStandIn

    with DirectStandIn(str(tmp_path / "d"), slots=64, slot_bytes=65536) as server:
        yield server


@pytest.fixture
def direct():
    """`make(socket, **options) -> DirectHarness`; closed at the end."""
    from direct_helpers import DirectHarness

    made = []

    def make(socket, **options):
        made.append(DirectHarness(socket, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def server_process(tmp_path):
    """Starts a stand-in in a process of its own: `start(*arguments, program="stand_in_server.py") -> Popen`."""
    import subprocess

    started = []

    def start(*arguments, program="stand_in_server.py"):
        path = os.path.join(os.path.dirname(__file__), program)
        process = subprocess.Popen(
            [sys.executable, path, str(tmp_path / "p"), *arguments], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        process.socket_path = str(tmp_path / "p")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session", autouse=True)
def the_expected_vllm():
    """When test_versions.py runs us over another vLLM, it must be that one."""
    if expected := os.environ.get("EXPECTED_VLLM"):
        import vllm

        assert vllm.__version__.split("+")[0] == expected
