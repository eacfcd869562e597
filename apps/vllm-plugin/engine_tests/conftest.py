"""Real engines and real servers. Needs `npm run build`; the folders are the test's own."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CLI = ROOT / "apps/connector-server/dist/cli.js"
OVERLAYS = Path(os.environ.get("KVFERRY_VLLM_OVERLAYS") or ROOT / ".cache")
# Many times what it takes, also where a system call takes tens of microseconds.
ANSWER_S_MAX = 1200
CHUNK_TOKENS = 64


# More workers than cores would be bound to the same ones.
TP_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}


class Server:
    """`kvferry serve`, with the tiers of one host."""

    def __init__(self, folder, tiers, env):
        self.socket = str(folder / "s")
        self._log = folder / "server.log"
        self._env = {**os.environ, **env}
        self._config = folder / "kvferry.yaml"
        self._args = ["--config", str(self._config)]
        self.process = None
        self.configure(tiers)

    def configure(self, tiers):
        """From its next start on."""
        self._config.write_text(json.dumps({"socket": self.socket, "http": "off", "tiers": tiers}))  # JSON is YAML

    def start(self):
        log = open(self._log, "ab")
        self.process = subprocess.Popen(["node", str(CLI), "serve", *self._args], stdout=log, stderr=log, env=self._env)
        deadline = time.monotonic() + 30
        while not self._accepts():
            assert self.process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(0.05)
        return self

    def _accepts(self):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(self.socket)
            return True
        return False

    def facts(self):
        """Its threads, and its bytes of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        values = dict(line.split(":", 1) for line in status.splitlines())
        return int(values["Threads"]), int(values["VmRSS"].split()[0]) * 1024

    def kill(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class EngineProcess:
    """`engine_process.py`. Calls wait for the answer."""

    def __init__(self, storage, version=None, kind="llama", tp=1, with_control=False):
        model = Path(tempfile.gettempdir()) / f"kvferry-engine-test-{os.getuid()}-{kind}"
        options = json.dumps({**storage, "model": str(model), "kind": kind, "tp": tp, "with_control": with_control})
        path = [str(HERE.parent / "src"), str(HERE.parent / "tests")]
        if version is not None:
            overlay = OVERLAYS / f"vllm-{version}"
            if not overlay.is_dir():
                pytest.skip(f"{overlay} is not there")
            path.insert(0, str(overlay))
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "engine_process.py"), options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **({} if tp == 1 else TP_ENVIRONMENT)},
        )  # fmt: skip

    def ready(self):
        return self._read()["ready"]

    def __call__(self, do, **fields):
        self.send(do, **fields)
        return self._read()

    def send(self, do, **fields):
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")

    def run(self, *prompts):
        return self("run", prompts=prompts)["results"]

    def errors(self):
        self._errors.seek(0)
        return self._errors.read()

    def kill(self):
        self._process.kill()
        self._process.wait()

    def _read(self):
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_S_MAX)
        line = self._process.stdout.readline() if ready else ""
        assert line, f"the engine gave no answer\n{self.errors()[-6000:]}"
        return json.loads(line)


class PosixStorage:
    """One folder that all hosts share."""

    env = {}

    def __init__(self, data):
        self.data = data

    def tiers(self, host):
        return [{"backend": "posix", "root": str(self.data)}]


class TieredStorage(PosixStorage):
    """Memory and a drive for each host, over a folder that all share."""

    def tiers(self, host):
        memory = {"backend": "memory", "capacity": "256MiB"}
        drive = {"backend": "nvme", "path": str(self.data / f"nvme-{host}"), "capacity": "1GiB"}
        return [memory, drive, {"backend": "posix", "root": str(self.data / "posix")}]


class MemoryStorage(PosixStorage):
    """Memory for each host, over a folder that all share."""

    def tiers(self, host):
        return [{"backend": "memory", "capacity": "256MiB"}, {"backend": "posix", "root": str(self.data)}]


class S3Storage:
    """A bucket, with a prefix of the test's own."""

    def __init__(self, data, s3):
        self._s3, self._prefix = s3, data.name
        self.env = {"AWS_ACCESS_KEY_ID": s3["accessKeyId"], "AWS_SECRET_ACCESS_KEY": s3["secretAccessKey"]}

    def tiers(self, host):
        return [{"backend": "s3", "prefix": self._prefix, **{name: self._s3[name] for name in ("bucket", "endpoint", "region")}}]


class SftpStorage:
    """Memory for each host, over a folder behind a real sshd."""

    env = {}

    def __init__(self, data, sshd):
        self._where = {name: sshd[name] for name in ("host", "port", "user", "hostKey")}
        self._where |= {"privateKeyFile": sshd["keyFile"], "root": str(data / "sftp")}

    def tiers(self, host):
        return [{"backend": "memory", "capacity": "256MiB"}, {"backend": "sftp", **self._where}]


def served(script, *arguments):
    """What `scripts/lib/SCRIPT` says it serves, while the fixture lives."""
    command = ["node", str(ROOT / "scripts/lib" / script), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    if not line:
        pytest.skip(f"{script} could serve nothing; node scripts/setup-system.mjs installs what it needs")
    yield json.loads(line)
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="session")
def s3():
    """A real S3 server."""
    yield from served("serve-s3.mjs", "kvferry-engine")


@pytest.fixture(scope="session")
def sshd():
    """A real SSH server."""
    yield from served("serve-sshd.mjs")


@pytest.fixture(scope="module")
def fuse():
    """A real file system that hangs while the process `pid` is stopped."""
    yield from served("serve-fuse.mjs")


LONG = os.environ.get("KVFERRY_LONG") == "1"
STORAGES = {"posix": PosixStorage, "memory-nvme-posix": TieredStorage, "s3": S3Storage, "memory-posix": MemoryStorage}
# Direct mode needs memory first.
CASES = [("tier", "posix"), ("tier", "memory-nvme-posix"), ("tier", "s3"), ("direct", "memory-nvme-posix"), ("direct", "memory-posix")]
if LONG:
    STORAGES["memory-sftp"] = SftpStorage
    CASES += [("tier", "memory-sftp"), ("direct", "memory-sftp")]
# What a storage needs besides a folder: the fixture's name.
SERVICES = {"s3": "s3", "memory-sftp": "sshd"}


def storage_of(name, request, tmp_path_factory):
    """An empty storage."""
    data = tmp_path_factory.mktemp("data")
    service = SERVICES.get(name)
    return STORAGES[name](data, *([] if service is None else [request.getfixturevalue(service)]))


@pytest.fixture(scope="module")
def storage(request, tmp_path_factory):
    """What the module's tests keep their blocks in: the fixture's parameter, by name; else a folder."""
    return storage_of(getattr(request, "param", "posix"), request, tmp_path_factory)


@pytest.fixture(scope="module")
def servers():
    """`start(storage) -> Server`, each a host of its own; killed at the end."""
    made = []

    def start(storage):
        folder = Path(tempfile.mkdtemp(prefix="kvferry-"))  # short: a socket's path has a limit
        made.append((Server(folder, storage.tiers(len(made)), storage.env), folder))
        return made[-1][0].start()

    yield start
    for server, folder in made:
        if server.process is not None:
            server.process.send_signal(signal.SIGCONT)
            server.kill()
        subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.fixture(scope="module")
def engines():
    """`start(storage, version=None, kind="llama", tp=1, with_control=False) -> EngineProcess`; killed at the end."""
    made = []

    def start(*arguments, **options):
        made.append(EngineProcess(*arguments, **options))
        return made[-1]

    yield start
    for engine in made:
        engine.kill()


def kvferry(server, mode="tier", **options):
    """The configuration for this server: of the tier, or of direct mode."""
    # A busy machine answers late, and a late answer is a miss: not what these tests are about.
    options = {"socket": server.socket, "lookup_deadline_ms": 20_000, **options}
    return {"direct": options} if mode == "direct" else {"tier": {"type": "KvferryTier", "module_path": "kvferry_vllm", **options}}


def full_chunks(prompts):
    """Cached tokens when every full chunk is."""
    return [length // CHUNK_TOKENS * CHUNK_TOKENS for _, length in prompts]


def tokens(results):
    return [each["tokens"] for each in results]


def cached(results):
    return [each["cached"] for each in results]


def until_all_are_hits(engine, prompts, expected, seconds_max):
    """Seconds until the first prompt has hits, and until every full chunk comes from the cache. What a slow machine has not stored in time
    is stored again meanwhile. `expected`: the results of the same prompts, whose tokens must come again."""
    started, first = time.monotonic(), None
    while True:
        engine("reset")
        again = engine.run(*prompts[: 1 if first is None else None])
        assert tokens(again) == tokens(expected)[: len(again)]
        if first is None and any(cached(again)):
            first = time.monotonic() - started
        if cached(again) == full_chunks(prompts):
            return first, time.monotonic() - started
        assert time.monotonic() < started + seconds_max, cached(again)
