"""A worker's side of direct mode: asks the server to gather and scatter its part of chunks.

    store:  mark ──done──► GATHER ──DONE, or the end of the stream──► finished, whatever became of it
    load:   mark ──done──► SCATTER ──LOADED──► finished
                              └── refused, or the server is gone ──► copied from the arena (arena.py) ──► finished

vLLM stops the engine when a load fails, so a load never does, but where the bytes cannot be trusted any more: then the engine is stopped, with the reason.
Every method runs in the worker's thread, and only `wait` and `shutdown` wait.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult

from kvferry_vllm import wire
from kvferry_vllm.client import Client
from kvferry_vllm.config import TierConfig
from kvferry_vllm.direct.arena import SELF_COPY_S, Arena
from kvferry_vllm.direct.devices import Device, Mark
from kvferry_vllm.direct.layout import Chunks, Layout, chunks_of, transfer_bytes
from kvferry_vllm.direct.load_store import DirectLoad, DirectStore
from kvferry_vllm.jobs import Job, Jobs
from kvferry_vllm.listener import Listener, Request
from kvferry_vllm.scheduler_side import SHUTDOWN_WAIT_S, STARTUP_WAIT_S, wait_for_welcome

logger = logging.getLogger("vllm.kvferry.direct")

WAIT_POLL_S = 0.05
ARENA_WAIT_S = 15.0  # for the connection to an arena that blocks are held in
OLD_ARENA_S = 60.0  # the scheduler needs no more than a step to notice that a server has been started again
DROPPED_LOG_S = 60.0
SERVER_END_S = 10.0  # a killed server's process ends soon after its connections; one that lives has ended its copies before those


@dataclass(slots=True)
class Transfer:
    """One of vLLM's jobs."""

    job_id: int
    spec: DirectStore | DirectLoad
    chunks: Chunks
    mark: Mark | None
    started: float


class KvferryWorker(Listener, OffloadingWorker):
    """
    Args:
        hello: HELLO of this worker, without `keyBytes`; `direct` has its part, its memory and its layout.
        part: which part of a chunk is this worker's; `part_bytes` is its size.
    """

    def __init__(
        self, config: TierConfig, hello: dict[str, Any], key_bytes: int, layout: Layout, device: Device, part: int, part_bytes: int
    ) -> None:
        self._hello, self._key_bytes = hello, key_bytes
        self._layout, self._device, self._part_at = layout, device, part * part_bytes
        self._client = Client(config.socket, self, config.fence_kill_after_s, device.before_hello)
        self._jobs = Jobs(self._client)
        self._marked: deque[tuple[Transfer, Callable[[Transfer], None]]] = deque()
        self._loads: list[Transfer] = []  # that wait for the connection to their arena
        self._arenas: dict[str, Arena] = {}  # the newest last
        self._arena: Arena | None = None  # of the connection
        self._open: set[int] = set()
        self._finished: list[TransferResult] = []
        self.dropped_blocks = self.self_copied_blocks = 0
        self._logged_at = float("-inf")
        self._connected_at = 0.0
        self._client.start({**hello, "keyBytes": key_bytes})
        wait_for_welcome(self._client, STARTUP_WAIT_S)

    # -- what vLLM asks --

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: DirectStore) -> bool:
        self._open.add(job_id)
        chunks = self._storable_chunks(src_spec, dst_spec.count)
        if chunks is None:
            self._drop(dst_spec.count)
            self._finish(job_id, 0, 0.0)
        else:
            self._begin(Transfer(job_id, dst_spec, chunks, self._device.mark(), time.monotonic()), self._gather)
        return True

    # `expedited` since 0.33: a load is never put off.
    def submit_load(self, job_id: int, src_spec: DirectLoad, dst_spec: Any, expedited: bool = False) -> bool:
        self._open.add(job_id)
        if not src_spec.count:
            self._finish(job_id, 0, 0.0)
            return True
        chunks = chunks_of(dst_spec, self._layout.blocks_per_chunk, src_spec.count)
        self._begin(Transfer(job_id, src_spec, chunks, self._device.mark(), time.monotonic()), self._scatter)
        return True

    def get_finished(self) -> list[TransferResult]:
        self._poll()
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        while not self._open.isdisjoint(job_ids):
            if self._client.unanswered:
                self._poll(WAIT_POLL_S)
            else:
                time.sleep(0.0005)  # for the GPU, or a server to connect to
                self._poll()

    def shutdown(self) -> None:
        """Ends the connection, and waits until the server touches nothing of ours."""
        self._jobs.fail_queued()
        if not self._client.close(SHUTDOWN_WAIT_S):
            logger.error("kvferry: the server did not end a worker's connection within %s s", SHUTDOWN_WAIT_S)
        for arena in self._arenas.values():
            arena.close()
        self._arenas.clear()
        self._arena = None

    # -- the way of a transfer --

    def _poll(self, wait_s: float = 0.0) -> None:
        self._client.poll(wait_s)
        while self._marked and self._is_done(self._marked[0][0].mark):
            transfer, proceed = self._marked.popleft()
            proceed(transfer)
        waiting, self._loads = self._loads, []
        for load in waiting:
            self._scatter(load)
        self._jobs.send_queued()
        for job in self._jobs.take_ended():
            (self._scattered if job.is_load else self._gathered)(job)
        if self._arena is not None and time.monotonic() - self._connected_at > OLD_ARENA_S:
            self._forget_older()

    def _begin(self, transfer: Transfer, proceed: Callable[[Transfer], None]) -> None:
        if transfer.spec.key_bytes != self._key_bytes:
            self._change_key_bytes(transfer.spec.key_bytes)
        if not self._marked and self._is_done(transfer.mark):
            proceed(transfer)
        else:
            self._marked.append((transfer, proceed))

    def _is_done(self, mark: Mark | None) -> bool:
        return mark is None or mark.query()

    def _gather(self, transfer: Transfer) -> None:
        spec = transfer.spec
        assert isinstance(spec, DirectStore)

        def part(begin: int, end: int) -> dict[str, Any]:
            ticket = (spec.ticket + begin // spec.batch_keys) % (wire.TICKET_MAX + 1)
            return {"ticket": ticket, **self._range(transfer, begin, end)}

        self._jobs.submit(Job(transfer.job_id, "gather", spec.count, part, spec.batch_keys, owner=transfer))

    def _gathered(self, job: Job) -> None:
        transfer: Transfer = job.owner
        lost = job.outcomes.count(wire.DROPPED) + job.outcomes.count(wire.FAILED)
        if lost:
            self._drop(lost)
        copied = transfer_bytes(self._layout, transfer.chunks) if job.outcomes.count(wire.STORED) else 0
        self._finish(transfer.job_id, copied, time.monotonic() - transfer.started)

    def _scatter(self, transfer: Transfer) -> None:
        spec = transfer.spec
        assert isinstance(spec, DirectLoad)
        arena = self._arenas.get(spec.instance)
        if arena is None:
            self._wait_for_arena(transfer)
            return
        if arena is self._arena:
            self._forget_older()
        if arena is self._arena and self._client.usable:
            job = Job(transfer.job_id, "scatter", spec.count, lambda begin, end: self._range(transfer, begin, end), owner=transfer)
            self._jobs.submit(job)
        else:
            self._copy(transfer, range(spec.count))

    def _scattered(self, job: Job) -> None:
        """What the server did not bring is copied from the arena."""
        left = [index for index, outcome in enumerate(job.outcomes) if outcome != wire.LOADED]
        if wire.MISS in job.outcomes:
            raise RuntimeError(
                f"kvferry: {job.outcomes.count(wire.MISS)} blocks that the server held for this engine are not held any more; the "
                "engine is stopped, because they may not be what they should be. Please report this."
            )
        if left:
            self._copy(job.owner, left)
        else:
            self._loaded(job.owner)

    def _wait_for_arena(self, transfer: Transfer) -> None:
        """Every worker was connected when the block was held: WELCOME is on its way to us, or the server has ended at once."""
        if time.monotonic() - transfer.started > ARENA_WAIT_S:
            raise RuntimeError(
                f"kvferry: blocks lie in memory of a server at {self._client.path} that this worker has had no connection to, and "
                "that has ended or does not answer; the engine is stopped, because a load cannot fail. Start it again."
            )
        self._loads.append(transfer)

    def _copy(self, transfer: Transfer, which: Sequence[int]) -> None:
        """Copies blocks from our own mapping of the arena, and makes sure before and after that they are held there."""
        spec = transfer.spec
        assert isinstance(spec, DirectLoad)
        arena = self._arenas[spec.instance]
        self._client.poll()
        is_intact = arena.holds_are_intact
        if is_intact:
            arena.copy_out(spec.offsets, transfer.chunks, list(which), self._layout, self._part_at)
            self._device.synchronize()
            self._client.poll()
            is_intact = arena.holds_are_intact
        if not is_intact:
            raise RuntimeError(
                f"kvferry: the connection to the server at {self._client.path} has ended more than {SELF_COPY_S:.0f} s ago, its process "
                "has not, and blocks that are being loaded lie in its memory; the engine is stopped, because they may not be what they "
                "should be. Start it again."
            )
        self.self_copied_blocks += len(which)
        logger.warning("kvferry: copied %d blocks from the server's memory, as the server did not", len(which))
        self._loaded(transfer)

    def _loaded(self, transfer: Transfer) -> None:
        self._finish(transfer.job_id, transfer_bytes(self._layout, transfer.chunks), time.monotonic() - transfer.started)

    def _finish(self, job_id: int, size: int, seconds: float) -> None:
        self._open.discard(job_id)
        self._finished.append(TransferResult(job_id, True, size, seconds))

    def _range(self, transfer: Transfer, begin: int, end: int) -> dict[str, Any]:
        size = transfer.spec.key_bytes
        return {
            "keys": transfer.spec.keys[begin * size : end * size],
            "groups": transfer.chunks.groups[begin:end].tobytes(),
            "blocks": transfer.chunks.blocks[begin:end].tobytes(),
        }

    def _storable_chunks(self, src_spec: Any, count: int) -> Chunks | None:
        """None for a batch with a chunk that lacks a block, as its request's window has left it: whoever loads that chunk may need it."""
        try:
            chunks = chunks_of(src_spec, self._layout.blocks_per_chunk, count)
        except ValueError:
            return None
        return chunks if chunks.are_complete else None

    def _drop(self, count: int) -> None:
        self.dropped_blocks += count
        if time.monotonic() - self._logged_at > DROPPED_LOG_S:
            self._logged_at = time.monotonic()
            logger.warning("kvferry: %d blocks were not stored so far: the server is not there, or had no room", self.dropped_blocks)

    # -- what the client tells --

    def on_ready(self, welcome: wire.Welcome, descriptors: Sequence[int]) -> None:
        if welcome.direct is None or len(descriptors) != 1:
            self._client.distrust("WELCOME to a worker without the arena")
            return
        instance = welcome.direct.instance
        arena = self._arenas.get(instance)
        if arena is not None:
            arena.connected_again()
        else:
            try:
                arena = Arena(instance, descriptors[0], welcome.direct.arenaBytes, self._client.watch_server())
            except (OSError, ValueError) as error:
                self._client.distrust(f"an arena that cannot be mapped ({error})")
                return
            self._arenas[instance] = arena
        self._arena = arena
        self._connected_at = time.monotonic()

    def on_answer(self, request: Request, message: wire.Answer) -> None:
        if isinstance(message, wire.Error):
            logger.warning("kvferry: %s failed: %s: %s", request.kind, message.code, message.message)
        is_done = isinstance(message, wire.Done)
        self._jobs.answered(request, message.outcomes if is_done else None, message.us if is_done else 0)

    def on_lost(self, requests: list[Request], reason: str) -> None:
        """The stream has ended: the server touches nothing of ours any more, but for what a driver does until a killed process has ended."""
        if self._arena is not None:
            if not self._device.copies_end_with_connection and any(request.is_job for request in requests):
                self._arena.server_ends_within(SERVER_END_S)
            self._arena.lost(self._client.open_at)
            self._arena = None
        self._jobs.fail_queued()
        for request in requests:
            if request.is_job:
                self._jobs.answered(request, None)

    def on_unresponsive(self) -> None:
        self._jobs.fail_queued()

    def _forget_older(self) -> None:
        """Nothing will be loaded from arenas before the connection's: their memory is let go, but for what is under way."""
        if len(self._arenas) > 1 and not self._jobs.under_way and not self._loads:
            for instance in [each for each, arena in self._arenas.items() if arena is not self._arena]:
                self._arenas.pop(instance).close()

    def _change_key_bytes(self, key_bytes: int) -> None:
        """As the scheduler's connection does it. Waits as at the start: what is dropped meanwhile, the scheduler would take to be under way."""
        self._key_bytes = key_bytes
        self._client.restart()
        self._client.start({**self._hello, "keyBytes": key_bytes})
        wait_for_welcome(self._client, STARTUP_WAIT_S)

