"""What everything in vLLM's scheduler has in common that talks to the server: the tier, and the manager of direct mode.

One connection, the answers to lookups, KV events, metrics. None of it blocks: the client is a state machine that is polled, and the
only wait is the one for the answer to a request's first lookup, bounded by `lookup_budget_ms`. A server that is not there is an
empty cache.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import vllm
from vllm.v1.kv_offload.base import Locality, LookupResult, Medium, OffloadingEvent, ReqContext

from kvferry_vllm import __version__, metrics, wire
from kvferry_vllm.client import Client, State
from kvferry_vllm.config import TierConfig
from kvferry_vllm.listener import Listener, Request
from kvferry_vllm.lookups import Lookups, RequestState
from kvferry_vllm.metrics import Metrics
from kvferry_vllm.namespace import namespace_fields, vllm_fs_names
from kvferry_vllm.vllm_config import hash_bytes

logger = logging.getLogger("vllm.kvferry")

GROUP_INDEX_BYTES = 4
STARTUP_WAIT_S = 2.0  # for WELCOME, once, before the first request
STEP_BUDGETS = 4  # a step waits for no more than this many lookup budgets in all
SHUTDOWN_WAIT_S = 7.0  # the server finishes what is under way for up to 5


class SchedulerSide(Listener):
    """One connection of vLLM's scheduler. Its child calls `_init_side`, and `_connect_at_start` when it is ready to be told things."""

    medium = Medium.STORAGE

    def _init_side(
        self,
        config: TierConfig,
        hello: dict[str, Any],
        descriptors: Sequence[int],
        vllm_config: Any | None,
        emits_events: bool,
        there: Any = LookupResult.HIT,
    ) -> None:
        """
        Args:
            hello: HELLO without `keyBytes`; `descriptors` go with it.
            emits_events: whether stored and removed blocks become KV events.
            there: what `_lookups` answers for a block that the server has.
        """
        self.config = config
        self.locality = Locality(config.locality) if config.locality else None
        self._metrics = Metrics()
        self._events: list[OffloadingEvent] | None = [] if emits_events else None
        self._client = Client(config.socket, self, config.fence_kill_after_s)
        self._lookups = Lookups(
            there, LookupResult.MISS, LookupResult.RETRY, self._ask, config.lookup_deadline_ms / 1000
        )
        self._answers_of = self._lookups.answers_of
        self._budget_s = config.lookup_budget_ms / 1000
        self._step_budget_s = STEP_BUDGETS * self._budget_s
        self._key_bytes = hash_bytes(vllm_config) + GROUP_INDEX_BYTES
        self._hello = hello
        self._descriptors = descriptors

    def _connect_at_start(self) -> None:
        """Nothing is being served yet: worth a moment, so that the first request finds the cache."""
        self._start_client()
        wait_for_welcome(self._client, STARTUP_WAIT_S)

    # -- lookups --

    def _ask_first(self, key: bytes, req_context: ReqContext) -> Any:
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

    def _wait(self, started: float, is_over: Callable[[], bool]) -> bool:
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
        return self._client.submit("lookup", state, len(keys), keys=b"".join(keys))

    def _answer_lookup(self, request: Request, message: wire.Answer) -> None:
        states = message.states if isinstance(message, wire.States) else None
        hits, misses = self._lookups.answered(request.owner, request.id, states)
        self._metrics.count(metrics.LOOKUP_KEYS, hits, "hit")
        self._metrics.count(metrics.LOOKUP_KEYS, misses, "miss")

    # -- the step --

    def _poll(self, wait_s: float = 0.0) -> None:
        self._client.poll(wait_s)
        self._metrics.count(metrics.LOOKUPS_EXPIRED, self._lookups.tend())

    def _end_step(self) -> None:
        self._step_budget_s = STEP_BUDGETS * self._budget_s
        if self._client.usable:
            self._lookups.end_step()

    def _close_client(self) -> None:
        if not self._client.close(SHUTDOWN_WAIT_S):
            logger.error("kvferry: the server did not end the connection within %s s", SHUTDOWN_WAIT_S)

    # -- events and metrics --

    def on_removed(self, keys: bytes, reason: str) -> None:
        removed = self._split(keys)
        self._metrics.count(metrics.REMOVED_BLOCKS, len(removed), reason)
        self._emit(removed, removed=True)

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

    def _split(self, keys: bytes) -> list[bytes]:
        size = self._key_bytes
        return [keys[at : at + size] for at in range(0, len(keys), size)]

    # -- connecting --

    def _start_client(self) -> None:
        self._client.start({**self._hello, "keyBytes": self._key_bytes}, self._descriptors)

    def _change_key_bytes(self, key_bytes: int) -> None:
        """The hash algorithm could not be seen at the start; the first key shows it."""
        logger.info("kvferry: keys have %d bytes, not %d; saying HELLO again", key_bytes, self._key_bytes)
        self._key_bytes = key_bytes
        self._client.restart()
        self._start_client()


def wait_for_welcome(client: Client, seconds: float) -> None:
    """Polls a client that has started until the server has answered HELLO, at most so long."""
    deadline = time.monotonic() + seconds
    while client.state is State.GREETING and time.monotonic() < deadline:
        client.poll(deadline - time.monotonic())


def wants_events(config: TierConfig, offloading_spec: Any) -> bool:
    """Whether KV events are emitted: our switch and vLLM's must both be on."""
    if not config.enable_kv_events:
        return False
    if offloading_spec.kv_events_config.enable_kv_cache_events:
        return True
    logger.warning(
        "kvferry: enable_kv_events is set for kvferry, but vLLM's own KV events are off (kv_events_config); none are emitted"
    )
    return False


def identity(offloading_spec: Any, config: TierConfig, vllm_config: Any | None) -> dict[str, Any]:
    """What HELLO says of whose bytes these are: `namespace` and `vllmFs`."""
    return {
        "namespace": namespace_fields(
            offloading_spec.config, vllm_config, vllm.__version__, config.tenant, config.weights
        ),
        "vllmFs": vllm_fs_names(offloading_spec),
    }


def greeting() -> dict[str, Any]:
    """How every HELLO begins."""
    return {
        "t": "hello",
        "version": wire.PROTOCOL_VERSION,
        "client": {
            "name": "kvferry-vllm",
            "version": __version__,
            "instance": f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}",
        },
    }
