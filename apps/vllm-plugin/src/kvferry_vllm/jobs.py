"""Transfers between the engine's memory and the server: vLLM's jobs, cut into requests, and their results."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvferry_vllm import wire
from kvferry_vllm.client import Client
from kvferry_vllm.listener import Request

QUEUED_BLOCKS_MAX = 65_536  # blocks of jobs that wait for room on the connection


@dataclass(slots=True)
class Job:
    """One of vLLM's jobs. It has ended when no part of it is queued or unanswered."""

    job_id: int
    kind: str  # of its requests: one of wire.JOB_KINDS
    count: int  # keys
    fields: Callable[[int, int], dict[str, Any]]  # those of the request for a range of the keys
    part_max: int | None = None  # keys of one request, at most; the server's limit if None
    owner: Any = None  # whatever the submitter wants to find again
    next: int = 0  # keys before this one have been sent
    parts: dict[int, tuple[int, int]] = field(default_factory=dict)  # request id -> range of keys
    outcomes: bytearray = field(default_factory=bytearray)
    us: int = 0

    @property
    def is_load(self) -> bool:
        return self.kind not in wire.STORE_KINDS

    @property
    def has_ended(self) -> bool:
        return self.next >= self.count and not self.parts


class Jobs:
    """Everything that was submitted and has not been collected.

    Jobs wait in two queues for room on the connection, loads before stores. Both are bounded; what does not fit, or
    cannot be sent because nobody is there, ends at once: its blocks are FAILED (loads) or DROPPED (stores).
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loads: deque[Job] = deque()
        self._stores: deque[Job] = deque()
        self._queued_blocks = 0
        self._ended: list[Job] = []
        self.under_way = 0  # jobs that have not ended

    def submit(self, job: Job) -> None:
        job.outcomes = bytearray([wire.FAILED if job.is_load else wire.DROPPED]) * job.count
        self.under_way += 1
        if not self._client.usable or self._queued_blocks + job.count > QUEUED_BLOCKS_MAX or not job.count:
            job.next = job.count
            self._end(job)
            return
        self._queued_blocks += job.count
        (self._loads if job.is_load else self._stores).append(job)
        self.send_queued()

    def send_queued(self) -> None:
        """Sends as much as there is room for."""
        for queue in (self._loads, self._stores):
            while queue and self._send_part(queue[0]):
                if queue[0].next >= queue[0].count:
                    queue.popleft()

    def fail_queued(self) -> None:
        """Ends what has not been sent: it has touched nothing."""
        for queue in (self._loads, self._stores):
            for job in queue:
                self._queued_blocks -= job.count - job.next
                job.next = job.count
                if job.has_ended:
                    self._end(job)
            queue.clear()

    def answered(self, request: Request, outcomes: bytes | None, us: int = 0) -> None:
        """The server has let go of a part's slots. None: it failed as a whole."""
        job: Job = request.owner
        begin, end = job.parts.pop(request.id)
        if outcomes is not None:
            job.outcomes[begin:end] = outcomes
            job.us = max(job.us, us)
        else:
            job.outcomes[begin:end] = bytes([wire.FAILED]) * (end - begin)
        if job.has_ended:
            self._end(job)

    def take_ended(self, count_max: int | None = None) -> list[Job]:
        if count_max is None or len(self._ended) <= count_max:
            ended, self._ended = self._ended, []
        else:
            ended, self._ended = self._ended[:count_max], self._ended[count_max:]
        return ended

    @property
    def has_ended_jobs(self) -> bool:
        return bool(self._ended)

    def _send_part(self, job: Job) -> bool:
        begin = job.next
        end = min(job.count, begin + (job.part_max or self._client.batch_keys_max))
        request = self._client.submit(job.kind, job, end - begin, **job.fields(begin, end))
        if request is None:
            return False
        job.parts[request] = (begin, end)
        job.next = end
        self._queued_blocks -= end - begin
        return True

    def _end(self, job: Job) -> None:
        self.under_way -= 1
        self._ended.append(job)
