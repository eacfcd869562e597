"""The secondary tier: vLLM's SecondaryTierManager over a kvferry server.

Every method runs in the scheduler. None blocks: the client is a state machine that they poll, and the only wait is the
one for the answer to a request's first lookup, bounded by `lookup_budget_ms`. A server that is not there is an empty
cache. The rules of the fence are kept in `client.py`.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import Any, ClassVar

import vllm
from vllm.v1.kv_offload.base import (
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager, TransferJob

from kvferry_vllm import __version__, huge_pages, metrics, wire
from kvferry_vllm.client import Client, Request, State
from kvferry_vllm.config import TierConfig, parse_config
from kvferry_vllm.jobs import Job, Jobs
from kvferry_vllm.lookups import Lookups, RequestState
from kvferry_vllm.metrics import Metrics
from kvferry_vllm.namespace import namespace_fields, vllm_fs_names
from kvferry_vllm.vllm_config import find_vllm_config, hash_bytes

logger = logging.getLogger("vllm.kvferry.tier")

GROUP_INDEX_BYTES = 4
HUGE_PAGES_S_MAX = 10.0  # once, while the engine starts
STARTUP_WAIT_S = 2.0  # for WELCOME, once, before the first request
RESULTS_MAX = 128  # in one call: a lost server fails hundreds of jobs at once, and the next step is soon
STEP_BUDGETS = 4  # a step waits for no more than this many lookup budgets in all
SHUTDOWN_WAIT_S = 7.0  # the server finishes what is under way for up to 5
DRAIN_POLL_S = 0.05
DRAIN_LOG_S = 5.0

_RESULTS_HAVE_BYTES = "transfer_bytes" in {field.name for field in fields(JobResult)}  # since 0.31


class KvferryTier(SecondaryTierManager):
    """Keeps chunks in a kvferry server. Its options are those of `TierConfig`."""

    medium: ClassVar[Medium] = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any | None = None,  # since 0.31
        **options: Any,
    ) -> None:
        if backpressure_detector is None:
            super().__init__(offloading_spec, primary_kv_view, tier_type)
        else:
            super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        self.config: TierConfig = parse_config(options)
        assert primary_kv_view.strides is not None
        self._row_bytes = primary_kv_view.strides[0]
        self.locality = Locality(self.config.locality) if self.config.locality else None
        self._metrics = Metrics()
        self._results_max: int | None = RESULTS_MAX
        self._events: list[OffloadingEvent] | None = [] if self._wants_events(offloading_spec) else None
        self._client = Client(self.config.socket, self, self.config.fence_kill_after_s)
        self._jobs = Jobs(self._client)
        self._lookups = Lookups(
            LookupResult.HIT, LookupResult.MISS, LookupResult.RETRY, self._ask, self.config.lookup_deadline_ms / 1000
        )
        self._answers_of = self._lookups.answers_of
        self._budget_s = self.config.lookup_budget_ms / 1000
        self._step_budget_s = STEP_BUDGETS * self._budget_s
        vllm_config = find_vllm_config()
        self._key_bytes = hash_bytes(vllm_config) + GROUP_INDEX_BYTES
        self._region_fd = _region_fd(offloading_spec, primary_kv_view.nbytes)
        huge_pages.gather(self._region_fd, primary_kv_view.nbytes, HUGE_PAGES_S_MAX)
        self._hello = self._make_hello(offloading_spec, primary_kv_view, vllm_config)
        self._connect_at_start()

    # -- lookups --

    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        answers = self._answers_of(req_context.req_id)
        if answers is not None:
            answer = answers.get(key)
            if answer is not None:
                return answer
        return self._first_lookup(key, req_context)

    def _first_lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        """Asks for every key of the request at once, and waits for the answer as long as the budget lasts."""
        started = time.monotonic()
        if len(key) != self._key_bytes:
            self._change_key_bytes(len(key))
        if not self._client.usable:
            if not self._is_connecting(started):
                return LookupResult.MISS
            self._wait(started, lambda: self._client.usable or not self._is_connecting(time.monotonic()))
            if not self._client.usable:
                return LookupResult.RETRY if self._is_connecting(time.monotonic()) else LookupResult.MISS
        positions = getattr(req_context, "_offload_key_positions", None)
        if positions is not None and key in positions:
            state = self._lookups.ask(req_context.req_id, positions)
        elif self._step_budget_s > 0:
            state = self._lookups.ask(req_context.req_id, (key,))
        else:
            state = self._lookups.ask_later(req_context.req_id, (key,))
        if not self._wait(started, lambda: not state.asked):
            self._metrics.count(metrics.LOOKUPS_DEFERRED)
        self._metrics.observe(metrics.LOOKUP_SECONDS, time.monotonic() - started)
        return state.answers.get(key, LookupResult.MISS)

    def _wait(self, started: float, is_over: Any) -> bool:
        """Polls until `is_over`, within the budgets of this call and this step."""
        limit = started + min(self._budget_s, self._step_budget_s)
        now = started
        while not is_over():
            now = time.monotonic()
            if now >= limit:
                self._step_budget_s = 0.0  # it is slow today: the rest of this step does not wait for it
                return False
            self._client.poll(limit - now)
        self._step_budget_s -= max(0.0, now - started)
        return True

    def _is_connecting(self, now: float) -> bool:
        """Whether HELLO is young enough to be worth a RETRY."""
        client = self._client
        return client.state is State.GREETING and now - client.greeted_at < self.config.lookup_deadline_ms / 1000

    def _ask(self, state: RequestState, keys: list[bytes]) -> int | None:
        return self._client.submit("lookup", state, b"".join(keys), len(keys))

    # -- transfers --

    def submit_store(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, is_load=False)

    def submit_load(self, job_metadata: TransferJob) -> None:
        self._submit(job_metadata, is_load=True)

    def _submit(self, job: TransferJob, is_load: bool) -> None:
        keys = list(job.keys)
        if keys and len(keys[0]) != self._key_bytes:
            self._change_key_bytes(len(keys[0]))
        self._jobs.submit(job.job_id, is_load, job.req_context.req_id, keys, job.chunk_ids)

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
        success = succeeded == len(job.keys)
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
        loaded: list[bytes] = []
        if loaded_count:
            loaded = [key for key, outcome in zip(job.keys, job.outcomes) if outcome == wire.LOADED]
        self._lookups.fail(set(job.keys).difference(loaded) if loaded else job.keys, job.req_id)
        return tuple(loaded) or None

    def _after_store(self, job: Job) -> None:
        there = [key for key, outcome in zip(job.keys, job.outcomes) if outcome in (wire.STORED, wire.PRESENT)]
        self._lookups.stored(there)
        if self._events is not None:
            # PRESENT blocks have been announced by whoever stored them.
            stored = [key for key, outcome in zip(job.keys, job.outcomes) if outcome == wire.STORED]
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
        self._step_budget_s = STEP_BUDGETS * self._budget_s
        if self._client.usable:
            self._lookups.end_step()
        self._poll()

    def has_pending_work(self) -> bool:
        return self._jobs.under_way > 0 or self._jobs.has_ended_jobs

    def shutdown(self) -> None:
        self._jobs.fail_queued()
        if not self._client.close(SHUTDOWN_WAIT_S):
            logger.error("kvferry: the server did not end the connection within %s s", SHUTDOWN_WAIT_S)
        if self._region_fd >= 0:
            os.close(self._region_fd)
            self._region_fd = -1

    def _poll(self, wait_s: float = 0.0) -> None:
        self._client.poll(wait_s)
        self._jobs.send_queued()
        self._metrics.count(metrics.LOOKUPS_EXPIRED, self._lookups.tend())

    # -- what the client tells --

    def on_ready(self, welcome: wire.Welcome) -> None:
        self._metrics.count(metrics.CONNECTIONS)
        self._lookups.forgive()

    def on_answer(self, request: Request, message: wire.States | wire.Done | wire.Error) -> None:
        if isinstance(message, wire.Error):
            logger.warning("kvferry: %s failed: %s: %s", request.kind, message.code, message.message)
        if request.kind == "lookup":
            states = message.states if isinstance(message, wire.States) else None
            hits, misses = self._lookups.answered(request.owner, request.id, states)
            self._metrics.count(metrics.LOOKUP_KEYS, hits, "hit")
            self._metrics.count(metrics.LOOKUP_KEYS, misses, "miss")
        elif isinstance(message, wire.Done):
            self._jobs.answered(request, message.outcomes, message.us)
        else:
            self._jobs.answered(request, None)

    def on_removed(self, keys: bytes, reason: str) -> None:
        size = self._key_bytes
        removed = [keys[at : at + size] for at in range(0, len(keys), size)]
        self._metrics.count(metrics.REMOVED_BLOCKS, len(removed), reason)
        if self._events is not None:
            self._emit(removed, removed=True)

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

    # -- events and metrics --

    def take_events(self) -> Iterable[OffloadingEvent]:
        if not self._events:
            return ()
        events, self._events = self._events, []
        return events

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:
        return metrics.metric_definitions()

    def get_stats(self) -> Any | None:
        self._metrics.gauge(metrics.CONNECTED, 1.0 if self._client.usable else 0.0)
        self._metrics.gauge(metrics.UNANSWERED, float(self._client.unanswered))
        self._metrics.count(metrics.SERVER_KILLS, self._client.take_kills())
        return self._metrics.take()

    def _emit(self, keys: Collection[bytes], removed: bool) -> None:
        if keys and self._events is not None:
            self._events.append(
                OffloadingEvent(keys=list(keys), medium=self.medium, removed=removed, locality=self.locality)
            )

    def _wants_events(self, offloading_spec: Any) -> bool:
        if not self.config.enable_kv_events:
            return False
        if offloading_spec.kv_events_config.enable_kv_cache_events:
            return True
        logger.warning(
            "kvferry: enable_kv_events is set for the tier, but vLLM's own KV events are off (kv_events_config); the "
            "tier emits none"
        )
        return False

    # -- connecting --

    def _make_hello(self, spec: Any, view: memoryview, vllm_config: Any | None) -> dict[str, Any]:
        assert view.shape is not None
        return {
            "t": "hello",
            "version": wire.PROTOCOL_VERSION,
            "client": {
                "name": "kvferry-vllm",
                "version": __version__,
                "instance": f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}",
            },
            "namespace": namespace_fields(
                spec.config, vllm_config, vllm.__version__, self.config.tenant, self.config.weights
            ),
            "blockBytes": self._row_bytes,
            "regions": [{"bytes": view.nbytes}],
            "fragments": [
                {"region": 0, "offset": 0, "stride": self._row_bytes, "bytes": self._row_bytes}
            ],
            "slots": view.shape[0],
            "vllmFs": vllm_fs_names(spec),
            "events": self._events is not None,
        }

    def _connect_at_start(self) -> None:
        """Nothing is being served yet: worth a moment, so that the first request finds the cache."""
        self._client.start({**self._hello, "keyBytes": self._key_bytes}, self._region_fd)
        deadline = time.monotonic() + STARTUP_WAIT_S
        while self._client.state is State.GREETING and time.monotonic() < deadline:
            self._client.poll(deadline - time.monotonic())

    def _change_key_bytes(self, key_bytes: int) -> None:
        """The hash algorithm could not be seen at the start; the first key shows it."""
        logger.info("kvferry: keys have %d bytes, not %d; saying HELLO again", key_bytes, self._key_bytes)
        self._key_bytes = key_bytes
        self._client.restart()
        self._client.start({**self._hello, "keyBytes": key_bytes}, self._region_fd)


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
