"""The secondary tier: vLLM's SecondaryTierManager over a kvferry server.

Every method runs in the scheduler. None blocks: see `scheduler_side.py`. The rules of the fence are kept in `client.py`.
"""

import logging
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, ReqContext, RequestOffloadingContext, ScheduleEndContext
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from kvferry_vllm import huge_pages, metrics, wire
from kvferry_vllm.config import parse_config
from kvferry_vllm.jobs import Job, Jobs
from kvferry_vllm.listener import Request
from kvferry_vllm.scheduler_side import SchedulerSide, greeting, identity, wants_events
from kvferry_vllm.vllm_config import find_vllm_config

logger = logging.getLogger("vllm.kvferry.tier")

HUGE_PAGES_S_MAX = 10.0  # once, while the engine starts
RESULTS_MAX = 128  # in one call: a lost server fails hundreds of jobs at once, and the next step is soon
DRAIN_POLL_S = 0.05
DRAIN_LOG_S = 5.0

_RESULTS_HAVE_BYTES = "transfer_bytes" in {field.name for field in fields(JobResult)}  # since 0.31


@dataclass(slots=True)
class Transfer:
    """What a job is about."""

    req_id: str
    keys: list[bytes]


class KvferryTier(SchedulerSide, SecondaryTierManager):
    """Keeps chunks in a kvferry server. Its options are those of `TierConfig`."""

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any | None = None,  # since 0.31
        **options: Any,
    ) -> None:
        if backpressure_detector is None:
            SecondaryTierManager.__init__(self, offloading_spec, primary_kv_view, tier_type)
        else:
            SecondaryTierManager.__init__(self, offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        config = parse_config(options)
        assert primary_kv_view.strides is not None
        self._row_bytes = primary_kv_view.strides[0]
        self._results_max: int | None = RESULTS_MAX
        self._region_fd = _region_fd(offloading_spec, primary_kv_view.nbytes)
        huge_pages.gather(self._region_fd, primary_kv_view.nbytes, HUGE_PAGES_S_MAX)
        vllm_config = find_vllm_config()
        emits_events = wants_events(config, offloading_spec)
        hello = {
            **greeting(),
            **identity(offloading_spec, config, vllm_config),
            **_region_fields(primary_kv_view),
            "events": emits_events,
        }
        self._init_side(config, hello, [self._region_fd], vllm_config, emits_events)
        self._jobs = Jobs(self._client)
        self._connect_at_start()

    # -- lookups --

    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        answers = self._answers_of(req_context.req_id)
        if answers is not None:
            answer = answers.get(key)
            if answer is not None:
                return answer
        return self._ask_first(key, req_context)

    # -- transfers --

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, "store")

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, "load")

    def _submit(self, job: TransferJob, kind: str) -> None:
        keys = list(job.keys)
        slots = np.ascontiguousarray(job.chunk_ids, dtype="<u4")
        if keys and len(keys[0]) != self._key_bytes:
            self._change_key_bytes(len(keys[0]))

        def part(begin: int, end: int) -> dict[str, Any]:
            return {"keys": b"".join(keys[begin:end]), "slots": slots[begin:end].tobytes()}

        self._jobs.submit(Job(job.job_id, kind, len(keys), part, owner=Transfer(job.req_context.req_id, keys)))

    def get_finished_jobs(self) -> Iterable[JobResult]:
        self._poll()
        if not self._jobs.has_ended_jobs:
            return ()
        count_max, self._results_max = self._results_max, RESULTS_MAX
        results = [self._result(job) for job in self._jobs.take_ended(count_max)]
        self._lookups.spread_failures()
        return results

    def _result(self, job: Job) -> JobResult:
        counts = self._count_outcomes(job)
        moved = counts.get(wire.LOADED if job.is_load else wire.STORED, 0)
        succeeded = moved if job.is_load else moved + counts.get(wire.PRESENT, 0)
        success = succeeded == job.count
        successful = None
        if job.is_load:
            if not success:
                successful = self._after_failed_load(job, moved)
        elif succeeded:
            self._after_store(job)
        result = JobResult(job.job_id, success, successful_keys=successful, transfer_time=job.us / 1e6)
        if _RESULTS_HAVE_BYTES:
            result.transfer_bytes = moved * self._row_bytes
        return result

    def _count_outcomes(self, job: Job) -> dict[int, int]:
        """How many blocks had which outcome. Nearly always all have the same: when a server is lost, hundreds of jobs end at once."""
        outcomes = job.outcomes
        if not outcomes:
            return {}
        counts = {outcomes[0]: outcomes.count(outcomes[0])}
        if counts[outcomes[0]] < len(outcomes):
            counts = {each: outcomes.count(each) for each in set(outcomes)}
        name = metrics.LOAD_BLOCKS if job.is_load else metrics.STORE_BLOCKS
        for outcome, count in counts.items():
            self._metrics.count(name, count, wire.OUTCOME_NAMES[outcome & 7])
        return counts

    def _after_failed_load(self, job: Job, loaded_count: int) -> tuple[bytes, ...] | None:
        """Its keys are misses from now on. Returns those that arrived, if any."""
        keys = job.owner.keys
        loaded: list[bytes] = []
        if loaded_count:
            loaded = [key for key, outcome in zip(keys, job.outcomes) if outcome == wire.LOADED]
        self._lookups.fail(set(keys).difference(loaded) if loaded else keys, job.owner.req_id)
        return tuple(loaded) or None

    def _after_store(self, job: Job) -> None:
        keys = job.owner.keys
        there = [key for key, outcome in zip(keys, job.outcomes) if outcome in (wire.STORED, wire.PRESENT)]
        self._lookups.stored(there)
        if self._events is not None:
            # PRESENT blocks have been announced by whoever stored them.
            stored = [key for key, outcome in zip(keys, job.outcomes) if outcome == wire.STORED]
            self._emit(stored, removed=False)

    def drain_jobs(self) -> None:
        """Blocks until no transfer is under way. The fence decides when that is."""
        self._results_max = None  # vLLM takes them all at once, and counts them
        self._jobs.fail_queued()
        logged = time.monotonic()
        while self._jobs.under_way:
            self._poll(DRAIN_POLL_S)
            self._jobs.fail_queued()
            if time.monotonic() - logged > DRAIN_LOG_S:
                logged = time.monotonic()
                logger.warning("kvferry: waiting for %d transfers to end", self._jobs.under_way)

    # -- the step --

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        self._lookups.finish(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        self._end_step()
        self._poll()

    def has_pending_work(self) -> bool:
        return self._jobs.under_way > 0 or self._jobs.has_ended_jobs

    def shutdown(self) -> None:
        self._jobs.fail_queued()
        self._close_client()
        if self._region_fd >= 0:
            os.close(self._region_fd)
            self._region_fd = -1

    def _poll(self, wait_s: float = 0.0) -> None:
        super()._poll(wait_s)
        self._jobs.send_queued()

    # -- what the client tells --

    def on_ready(self, welcome: wire.Welcome, descriptors: Any) -> None:
        self._metrics.count(metrics.CONNECTIONS)
        self._lookups.forgive()

    def on_answer(self, request: Request, message: wire.Answer) -> None:
        if isinstance(message, wire.Error):
            logger.warning("kvferry: %s failed: %s: %s", request.kind, message.code, message.message)
        if request.kind == "lookup":
            self._answer_lookup(request, message)
        elif isinstance(message, wire.Done):
            self._jobs.answered(request, message.outcomes, message.us)
        else:
            self._jobs.answered(request, None)

    def on_lost(self, requests: list[Request], reason: str) -> None:
        """The stream has ended: the slots of everything unanswered are free."""
        self._lookups.reset()
        self._jobs.fail_queued()
        for request in requests:
            if request.is_job:
                self._jobs.answered(request, None)

    def on_unresponsive(self) -> None:
        self._lookups.reset()
        self._jobs.fail_queued()


def _region_fields(view: memoryview) -> dict[str, Any]:
    """What HELLO says of the region."""
    assert view.shape is not None and view.strides is not None
    row_bytes = view.strides[0]
    return {
        "blockBytes": row_bytes,
        "regions": [{"bytes": view.nbytes}],
        "fragments": [{"region": 0, "offset": 0, "stride": row_bytes, "bytes": row_bytes}],
        "slots": view.shape[0],
    }


def _region_fd(offloading_spec: Any, region_bytes: int) -> int:
    """A descriptor of our own for the region that vLLM shares with its workers.

    Raises:
        RuntimeError: if the region is not one file, so that the server could not reach all of it.
    """
    region = getattr(offloading_spec, "_scheduler_mmap", None)
    if region is None or getattr(region, "fd", None) is None:
        raise RuntimeError("kvferry tier: this vLLM does not keep its offload region in a shared file; 0.30 to 0.33 do")
    file_bytes = os.fstat(region.fd).st_size
    if file_bytes < region_bytes:
        raise RuntimeError(
            f"kvferry tier: vLLM's offload region has {region_bytes} bytes but its file {file_bytes}: regions in several "
            "files are not supported"
        )
    return os.dup(region.fd)
