"""The scheduler's side of direct mode: vLLM's OffloadingManager over a kvferry server.

A block is a HIT only when the server holds it in its arena (holds.py), because a load that was prepared must not fail. None of this blocks:
see `scheduler_side.py`.
"""

import logging
import time
from collections.abc import Collection
from itertools import dropwhile, takewhile
from typing import Any

import numpy as np
from vllm.v1.kv_offload.base import (
    LookupResult,
    OffloadingManager,
    PrepareStoreOutput,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
    TierFilter,
)

from kvferry_vllm import metrics, wire
from kvferry_vllm.config import TierConfig
from kvferry_vllm.direct.holds import BUSY, Hold, Holds
from kvferry_vllm.direct.load_store import DirectLoad, DirectStore
from kvferry_vllm.direct.stores import Stores
from kvferry_vllm.listener import Request
from kvferry_vllm.scheduler_side import SchedulerSide

logger = logging.getLogger("vllm.kvferry.direct")

TIDY_S = 0.5
_THERE = object()  # somewhere in the tiers: not yet a hit
_TELLS_RESET_ENDED = hasattr(OffloadingManager, "on_reset_flushed")  # since 0.33


class KvferryManager(SchedulerSide, OffloadingManager):
    """
    Args:
        hello: HELLO of the scheduler, without `keyBytes`.
        group_count: KV cache groups. With one, the run of blocks that a request begins with is held at once.
        emits_events: whether stored and removed blocks become KV events.
    """

    def __init__(
        self, config: TierConfig, hello: dict[str, Any], vllm_config: Any | None, group_count: int, emits_events: bool
    ) -> None:
        self._init_side(config, hello, (), vllm_config, emits_events, there=_THERE)
        self._holds = Holds(self._ask_hold, self._send_release, self._refuse, config.lookup_deadline_ms / 1000)
        self._stores = Stores()
        self._has_one_group = group_count == 1
        self._step_instance: str | None = None  # of the hits of this step: a load is of one arena
        self._tidied_at = 0.0
        self._connect_at_start()

    # -- lookups --

    def lookup(self, key: bytes, req_context: ReqContext) -> LookupResult:
        req_id = req_context.req_id
        interest = self._holds.of(req_id)
        if interest is not None and self._client.usable:
            interest.seen_at = time.monotonic()
            hold = interest.held.get(key)
            if hold is not None and hold.is_live:
                return self._hit(hold)
            if key in interest.asked:
                return LookupResult.HIT_PENDING
        answers = self._answers_of(req_id)
        answer = None if answers is None else answers.get(key)
        if answer is None:
            tiers = req_context.load_tier_filter
            if tiers is not TierFilter.ALL and not tiers.allows(self.medium, self.locality):
                return LookupResult.MISS
            answer = self._ask_first(key, req_context)
        if answer is not _THERE:
            return answer
        return self._hold(key, req_context) if self._client.usable else LookupResult.MISS

    def _hold(self, key: bytes, req_context: ReqContext) -> LookupResult:
        """Holds a block that is there. The first of a request with one group is waited for, with the run that follows it."""
        req_id = req_context.req_id
        is_first = self._holds.of(req_id) is None
        if is_first and self._has_one_group:
            started = time.monotonic()
            interest = self._holds.want(req_id, self._run_from(key, req_context))
            self._holds.send()
            self._wait(started, lambda: not interest.asked)
        else:
            interest = self._holds.want(req_id, (key,))  # asked for at the end of the step, with all others
        hold = interest.held.get(key)
        if hold is not None and hold.is_live:
            return self._hit(hold)
        return LookupResult.HIT_PENDING if key in interest.asked else LookupResult.MISS

    def _run_from(self, key: bytes, req_context: ReqContext) -> list[bytes]:
        """The blocks of the request from this one on, as far as they are there."""
        positions = getattr(req_context, "_offload_key_positions", None)
        answers = self._answers_of(req_context.req_id)
        if positions is None or answers is None or key not in positions:
            return [key]
        following = dropwhile(lambda each: each != key, positions)
        return list(takewhile(lambda each: answers.get(each) is _THERE, following))

    def _hit(self, hold: Hold) -> LookupResult:
        if self._step_instance is None:
            self._step_instance = hold.instance
        return LookupResult.HIT if hold.instance == self._step_instance else LookupResult.RETRY

    def _ask_hold(self, keys: list[bytes]) -> int | None:
        return self._client.submit("hold", None, len(keys), keys=b"".join(keys))

    def _send_release(self, keys: list[bytes]) -> bool:
        return self._client.tell(wire.Release(b"".join(keys)))

    def _refuse(self, req_id: str, keys: list[bytes]) -> None:
        self._lookups.refuse(keys, req_id)

    # -- loads --

    def prepare_load(self, keys: Collection[bytes], req_context: ReqContext) -> DirectLoad:
        holds = self._holds.prepare(req_context.req_id, keys)
        instances = {hold.instance for hold in holds}
        assert len(instances) <= 1, "hits of one step are of one arena"
        offsets = np.fromiter((hold.offset for hold in holds), dtype="<u8", count=len(holds))
        return DirectLoad(next(iter(instances), ""), self._key_bytes, b"".join(hold.key for hold in holds), offsets)

    def complete_load(self, keys: Collection[bytes], req_context: ReqContext) -> None:
        self._holds.complete(req_context.req_id, keys)
        self._metrics.count(metrics.LOAD_BLOCKS, len(keys), "loaded")

    # -- stores --

    def prepare_store(self, keys: Collection[bytes], req_context: ReqContext) -> PrepareStoreOutput:
        """Never None, which would let vLLM try again in every step: what cannot be stored is dropped, and counted."""
        self._check_key_bytes(keys)
        unknown: list[bytes] = []
        if self._client.usable:
            answers = self._answers_of(req_context.req_id) or {}
            unknown = [key for key in self._stores.unknown(keys) if answers.get(key) is not _THERE]
        else:
            self._metrics.count(metrics.STORE_BLOCKS, len(keys), "dropped")
        batch_keys = max(1, self._client.batch_keys_max)
        ticket = self._stores.begin(unknown, batch_keys)
        spec = DirectStore(ticket, batch_keys, self._key_bytes, b"".join(unknown))
        return PrepareStoreOutput(keys_to_store=unknown, store_spec=spec, evicted_keys=[])

    def complete_store(self, keys: Collection[bytes], req_context: ReqContext, success: bool = True) -> None:
        """The workers' memory is not read any more. What became of the blocks comes by `on_stored`."""
        self._stores.gathered()

    def on_stored(self, ticket: int, outcomes: bytes) -> None:
        keys = self._stores.answered(ticket, outcomes)
        for outcome in set(outcomes):
            self._metrics.count(metrics.STORE_BLOCKS, outcomes.count(outcome), wire.OUTCOME_NAMES[outcome & 7])
        if keys is None:
            return
        self._lookups.stored(keys)
        # PRESENT blocks have been announced by whoever stored them.
        self._emit([key for key, outcome in zip(keys, outcomes) if outcome == wire.STORED], removed=False)

    def _check_key_bytes(self, keys: Collection[bytes]) -> None:
        key = next(iter(keys), None)
        if key is not None and len(key) != self._key_bytes:
            self._change_key_bytes(len(key))

    # -- the step --

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        # The engine may have been idle, and the server started again: one poll finds the end of the old connection, the next connects.
        self._poll()
        self._poll()
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        self._lookups.finish(req_context.req_id)
        self._holds.finish(req_context.req_id)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        self._step_instance = None
        self._end_step()
        self._holds.end_step()
        self._poll()
        now = time.monotonic()
        if now - self._tidied_at > TIDY_S:
            self._tidied_at = now
            self._metrics.count(metrics.STORE_BLOCKS, self._stores.expire(), "dropped")

    def has_pending_work(self) -> bool:
        """Answers are on their way that a request, or an event's reader, waits for."""
        if self._events:
            return True
        return self._client.usable and (self._holds.is_asking or self._stores.is_awaited)

    def reset_cache(self) -> None:
        """vLLM's own caches are empty now. The server's is not touched."""
        self._lookups.reset()
        self._holds.reset(_TELLS_RESET_ENDED)

    def on_reset_flushed(self) -> None:
        self._holds.reset_ended()

    def get_stats(self) -> Any | None:
        self._metrics.gauge(metrics.HELD_BLOCKS, float(self._holds.live_count))
        return super().get_stats()

    def shutdown(self) -> None:
        self._close_client()

    def _poll(self, wait_s: float = 0.0) -> None:
        super()._poll(wait_s)
        self._holds.flush()

    # -- what the client tells --

    def on_ready(self, welcome: wire.Welcome, descriptors: Any) -> None:
        if welcome.direct is None:
            self._client.distrust("WELCOME without `direct`")
            return
        self._metrics.count(metrics.CONNECTIONS)
        self._lookups.forgive()
        self._holds.ready(welcome.direct.instance, welcome.batchKeysMax)

    def on_answer(self, request: Request, message: wire.Answer) -> None:
        if isinstance(message, wire.Error):
            logger.warning("kvferry: %s failed: %s: %s", request.kind, message.code, message.message)
        if request.kind == "lookup":
            self._answer_lookup(request, message)
        elif isinstance(message, wire.Held):
            for outcome in set(message.outcomes):
                self._metrics.count(metrics.HOLD_BLOCKS, message.outcomes.count(outcome), wire.OUTCOME_NAMES[outcome & 7])
            self._holds.answered(request.id, message)
        elif request.kind == "hold":
            self._holds.answered(request.id, None, is_busy=isinstance(message, wire.Error) and message.code == "BUSY")

    def on_removed(self, keys: bytes, reason: str) -> None:
        self._stores.removed(self._split(keys))
        super().on_removed(keys, reason)

    def on_lost(self, requests: list[Request], reason: str) -> None:
        self._lookups.reset()
        self._holds.lost()
        self._metrics.count(metrics.STORE_BLOCKS, self._stores.lost(), "dropped")

    def on_unresponsive(self) -> None:
        self._lookups.reset()
        self._holds.give_up()
