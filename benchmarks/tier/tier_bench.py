"""vLLM's `fs` tier and KvferryTier over several storages at vLLM's own interface, without an engine: `tier_bench.py OPTIONS_JSON` → one JSON
on stdout. All get the same region, keys and bytes under the same root, in alternating order, and fio writes and reads a file there. A phase is driven as the scheduler does
it: jobs of some blocks, `get_finished_jobs` until all have ended; lookups key by key until a MISS, step after step while
one answers RETRY. Before the loads the page cache is emptied of the files, and the bytes that arrive are compared.
"""

import gc
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np  # noqa: E402
import vllm  # noqa: E402
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext  # noqa: E402
from vllm.v1.kv_offload.config import (  # noqa: E402
    OffloadingCacheConfig,
    OffloadingConfig,
    OffloadingGroupConfig,
    OffloadingModelConfig,
    OffloadingParallelConfig,
)
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion  # noqa: E402
from vllm.v1.kv_offload.tiering.base import TransferJob  # noqa: E402
from vllm.v1.kv_offload.tiering.factory import SecondaryTierFactory  # noqa: E402

JOB_BLOCKS = 16
POLL_S = 0.0002
LOOKUP_REQUESTS = 20
STEP_END = ScheduleEndContext((), ())
_ids = itertools.count()
TICKS = os.sysconf("SC_CLK_TCK")


def offloading_config(chunk_bytes):
    return OffloadingConfig(
        groups=(OffloadingGroupConfig(tokens_per_block=64, layer_names=("layer",), group_id=0),),
        worker_kv_bytes_per_block=chunk_bytes,
        enable_kv_cache_events=False,
        extra_config={},
        engine_id=f"kvferry-bench-{os.getpid()}-{next(_ids)}",
        model=OffloadingModelConfig(name=f"bench-{chunk_bytes}", dtype="bfloat16"),
        cache=OffloadingCacheConfig(tokens_per_hash=64, blocks_per_chunk=1),
        parallel=OffloadingParallelConfig(
            rank=0, world_size=1, tp_size=1, pp_size=1, pcp_size=1, dcp_size=1, data_parallel_index=0,
            data_parallel_size=1, data_parallel_rank_local=None, is_parallelism_agnostic=True,
        ),
        kv_cache_layout="LBHNC",
    )  # fmt: skip


class Driver:
    """One tier, and an account of what its calls cost."""

    def __init__(self, name, tier, region_view, server_pid):
        self.name, self.tier, self.rows = name, tier, np.asarray(region_view)
        self.server_pid = server_pid
        self.in_calls = self.slowest_call = 0.0
        self.retries = 0

    def call(self, function, *arguments):
        started = time.perf_counter()
        result = function(*arguments)
        took = time.perf_counter() - started
        self.in_calls += took
        self.slowest_call = max(self.slowest_call, took)
        return result

    def measured(self, action):
        self.in_calls = self.slowest_call = 0.0
        self.retries = 0
        gc.collect()
        cpu = self.cpu_seconds()
        started = time.perf_counter()
        action()
        seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "secondsInCalls": self.in_calls,
            "slowestCallSeconds": self.slowest_call,
            "cpuSeconds": self.cpu_seconds() - cpu,
            "retries": self.retries,
        }

    def cpu_seconds(self):
        """Of this process, all threads, and of the server if the tier has one."""
        total = sum(os.times()[:2])
        if self.server_pid is not None:
            with open(f"/proc/{self.server_pid}/stat") as stat:
                fields = stat.read().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
        return total

    def transfer(self, keys, load):
        submit = self.tier.submit_load if load else self.tier.submit_store
        waiting = set()
        for at in range(0, len(keys), JOB_BLOCKS):
            part = keys[at : at + JOB_BLOCKS]
            context = ReqContext(req_id=f"t{next(_ids)}")
            job = TransferJob(next(_ids), part, np.arange(at, at + len(part)), load, context)
            waiting.add(job.job_id)
            self.call(submit, job)
        while waiting:
            finished = list(self.call(self.tier.get_finished_jobs))
            for result in finished:
                assert result.success, f"{self.name}: a transfer failed"
                waiting.discard(result.job_id)
            if not finished:
                time.sleep(POLL_S)

    def lookup(self, context, keys, expected):
        """One request, as the scheduler asks: in prefix order until a MISS, again in the next step while there is a RETRY."""
        self.call(self.tier.on_new_request, context)
        while True:
            self.call(self.tier.get_finished_jobs)
            retries, hits = self.ask(keys, context)
            self.call(self.tier.on_schedule_end, STEP_END)
            if not retries:
                break
            self.retries += retries
            time.sleep(POLL_S)
        self.call(self.tier.on_request_finished, context)
        assert hits == expected, f"{self.name}: {hits} hits, not {expected}"

    def ask(self, keys, context):
        """One step's lookups. Written out, because a wrapper around each would cost more than what it measures."""
        lookup, clock = self.tier.lookup, time.perf_counter
        retry, hit = LookupResult.RETRY, LookupResult.HIT
        retries = hits = 0
        slowest = 0.0
        started = before = clock()
        for key in keys:
            answer = lookup(key, context)
            after = clock()
            if after - before > slowest:
                slowest = after - before
            before = after
            if answer is hit:
                hits += 1
            elif answer is retry:
                retries += 1
            else:
                break
        self.in_calls += before - started
        self.slowest_call = max(self.slowest_call, slowest)
        return retries, hits


def request_of(keys):
    """A request's context with its keys' positions, which vLLM's scheduler sets."""
    context = ReqContext(req_id=f"l{next(_ids)}")
    for position, key in enumerate(keys):
        context.set_offload_key_position(key, position)
    return context


def keys_of(count, *salt):
    return [hashlib.sha256(repr((salt, i)).encode()).digest() + bytes(4) for i in range(count)]


def drop_caches(folder):
    """Out of the page cache with the files. True where the whole cache could be dropped."""
    os.sync()
    for path, _, names in os.walk(folder):
        for name in names:
            fd = os.open(os.path.join(path, name), os.O_RDONLY)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
    try:
        with open("/proc/sys/vm/drop_caches", "w") as control:
            control.write("1")
        return True
    except OSError:
        return False


def bench_chunk(options, chunk_bytes):
    count = max(JOB_BLOCKS, options["bytes"] // chunk_bytes)
    config = offloading_config(chunk_bytes)
    region = SharedOffloadRegion(config.engine_id, count, None, chunk_bytes, chunk_bytes)
    os.unlink(region.mmap_path)
    region._creator = False
    view = region.create_kv_memoryview()
    spec = SimpleNamespace(
        config=config,
        _scheduler_mmap=region,
        blocks_per_chunk=1,
        kv_events_config=SimpleNamespace(enable_kv_cache_events=False),
    )
    configs = {"fs": ({"type": "fs", "root_dir": os.path.join(options["root"], "fs")}, None)}
    for name, server in options["servers"].items():
        config = {"type": "KvferryTier", "module_path": "kvferry_vllm", "socket": server["socket"], "weights": "00" * 32}
        configs[name] = (config, server["pid"])
    drivers = {
        name: Driver(name, SecondaryTierFactory.create_secondary_tier(each, view, spec), view, pid)
        for name, (each, pid) in configs.items()
    }
    rows = np.asarray(view)
    rng = np.random.default_rng(chunk_bytes)
    payload = rng.integers(-128, 127, rows.shape, dtype=np.int8)
    rounds, fio = [], []
    warm_up = options["warmUpRounds"]
    for round_ in range(options["rounds"] + warm_up):
        names = list(drivers) if round_ % 2 else list(reversed(drivers))
        for name in names:
            result = bench_round(drivers[name], rows, payload, round_, options)
            if round_ >= warm_up:
                rounds.append({"tier": name, "round": round_, **result})
        if options["fio"]:
            figures = fio_round(options, chunk_bytes, count)
            if round_ >= warm_up:
                fio.append(figures)
    for driver in drivers.values():
        driver.tier.shutdown()
        driver.rows = None
    del rows
    view.release()
    region.cleanup()
    return {"chunkBytes": chunk_bytes, "blocks": count, "rounds": rounds, "fio": fio}


def bench_round(driver, rows, payload, round_, options):
    keys = keys_of(len(payload), driver.name, round_, payload.shape)
    rows[:] = payload
    store = driver.measured(lambda: driver.transfer(keys, load=False))
    cold = drop_caches(options["root"])
    present = [request_of(keys) for _ in range(LOOKUP_REQUESTS)]
    hit = driver.measured(lambda: [driver.lookup(each, keys, len(keys)) for each in present])
    absent = [keys_of(len(keys), "absent", driver.name, round_, i) for i in range(LOOKUP_REQUESTS)]
    absent = [(request_of(each), each) for each in absent]
    miss = driver.measured(lambda: [driver.lookup(context, each, 0) for context, each in absent])
    drop_caches(options["root"])
    rows[:] = 0
    load = driver.measured(lambda: driver.transfer(keys, load=True))
    assert (rows == payload).all(), f"{driver.name}: other bytes came back"
    total = payload.nbytes
    for each in (store, load):
        each["gigabytesPerSecond"] = total / each["seconds"] / 1e9
        each["cpuSecondsPerGigabyte"] = each["cpuSeconds"] / total * 1e9
    for each in (hit, miss):
        each["requests"] = LOOKUP_REQUESTS
        each["secondsPerRequest"] = each["seconds"] / LOOKUP_REQUESTS
    hit["keysPerSecond"] = LOOKUP_REQUESTS * len(keys) / hit["seconds"]
    return {"store": store, "lookupHit": hit, "lookupMiss": miss, "load": load, "wholePageCacheDropped": cold}


def fio_round(options, chunk_bytes, count):
    """GB/s of the drive itself: the same bytes in blocks of the same size, as many at a time as the servers keep under way."""
    path = os.path.join(options["root"], "fio")
    common = [
        "fio", "--output-format=json", f"--filename={path}", f"--bs={chunk_bytes}", f"--size={chunk_bytes * count}",
        "--direct=1", "--ioengine=io_uring", f"--iodepth={options['fioDepth']}", "--fixedbufs", "--name=kvferry", "--randrepeat=0",
    ]  # fmt: skip
    with open(path, "ab") as file:
        os.posix_fallocate(file.fileno(), 0, chunk_bytes * count)
    result = {}
    for name in ("write", "read"):
        done = subprocess.run([*common, f"--rw={name}"], check=True, capture_output=True, text=True)
        result[name] = json.loads(done.stdout)["jobs"][0][name]["bw_bytes"] / 1e9
    return {"store": result["write"], "load": result["read"]}


def main():
    options = json.loads(sys.argv[1])
    chunks = [bench_chunk(options, chunk_bytes) for chunk_bytes in options["chunkBytes"]]
    out.write(json.dumps({"vllm": vllm.__version__, "chunks": chunks}))
    out.flush()


if __name__ == "__main__":
    main()
