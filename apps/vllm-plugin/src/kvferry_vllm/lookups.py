"""What every request knows about its keys, and the questions that are under way.

An answer is a dictionary entry: once a key has been asked for, `lookup` only reads. HIT and MISS are settled; RETRY
means that the server has not said yet, and turns into MISS when the request's deadline passes.
"""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from kvferry_vllm import wire

FAILED_KEY_S = 5.0  # how long a key whose load failed answers MISS, unless it is stored again
ANSWER_S_MAX = 2.0  # settled answers of a request that still waits are asked for again after this
REASK_S = 0.002  # pause between two questions about blocks that are just being stored


@dataclass(slots=True)
class RequestState:
    """One request: the answers it has, and what it still waits for."""

    answers: dict[bytes, Any] = field(default_factory=dict)
    asked: dict[int, list[bytes]] = field(default_factory=dict)  # by id of the question
    pending: list[bytes] = field(default_factory=list)  # being stored: to be asked again
    unasked: list[bytes] = field(default_factory=list)  # to be asked at the end of the step
    failed: set[bytes] = field(default_factory=set)  # never again for this request
    deadline: float | None = None
    settled_at: float = 0.0
    asked_at: float = 0.0

    @property
    def is_waiting(self) -> bool:
        return bool(self.asked or self.pending or self.unasked)


class Lookups:
    """All requests' answers.

    Args:
        hit, miss, retry: vLLM's LookupResult members, so that this needs no vLLM.
        ask: sends one question, `(owner, keys) -> id or None where there is no room`.
        deadline_s: after this a question without an answer is a miss.
    """

    def __init__(
        self, hit: Any, miss: Any, retry: Any, ask: Callable[[RequestState, list[bytes]], int | None], deadline_s: float
    ) -> None:
        self._hit, self._miss, self._retry = hit, miss, retry
        by_state = [miss] * 256
        by_state[wire.STATE_HIT], by_state[wire.STATE_PENDING] = hit, retry
        self._by_state = by_state
        self._ask = ask
        self._deadline_s = deadline_s
        self._requests: dict[str, RequestState] = {}
        self._waiting: dict[str, RequestState] = {}
        self._failed: dict[bytes, float] = {}
        self._newly_failed: set[bytes] = set()
        self._last_refresh = 0.0

    def answers_of(self, req_id: str) -> dict[bytes, Any] | None:
        state = self._requests.get(req_id)
        return None if state is None else state.answers

    def state_of(self, req_id: str) -> RequestState:
        state = self._requests.get(req_id)
        if state is None:
            state = self._requests[req_id] = RequestState()
        return state

    def ask(self, req_id: str, keys: Iterable[bytes]) -> RequestState:
        """Asks for all of `keys` that the request has no answer for, as few questions as they fit in."""
        state = self.state_of(req_id)
        unknown = self._take_unknown(state, keys)
        for at in range(0, len(unknown), wire.LOOKUP_KEYS_MAX):
            self._send(state, unknown[at : at + wire.LOOKUP_KEYS_MAX])
        self._waits(req_id, state)
        return state

    def ask_later(self, req_id: str, keys: Iterable[bytes]) -> RequestState:
        """The same, but at the end of the step, together with whatever else is asked for by then."""
        state = self.state_of(req_id)
        state.unasked += self._take_unknown(state, keys)
        self._waits(req_id, state)
        return state

    def answered(self, state: RequestState, question: int, states: bytes | None) -> tuple[int, int]:
        """Takes the answer to a question; None where it failed as a whole.

        Returns:
            how many keys were hits and misses. (0, 0) where nobody waits for it any more.
        """
        keys = state.asked.pop(question, None)
        if keys is None:
            return 0, 0
        if states is None:
            state.answers.update(dict.fromkeys(keys, self._miss))
            return 0, len(keys)
        state.answers.update(zip(keys, map(self._by_state.__getitem__, states)))
        if wire.STATE_PENDING in states:
            state.pending += [key for key, each in zip(keys, states) if each == wire.STATE_PENDING]
        if self._failed:
            for key in self._failed.keys() & set(keys):
                state.answers[key] = self._miss
        for key in state.failed:
            if key in state.answers:
                state.answers[key] = self._miss
        if not state.is_waiting:
            state.deadline = None
            state.settled_at = time.monotonic()
        hits = states.count(wire.STATE_HIT)
        return hits, len(states) - hits - states.count(wire.STATE_PENDING)

    def tend(self) -> int:
        """Once a poll: questions past their deadline become misses.

        Returns:
            how many keys did.
        """
        if not self._waiting:
            return 0
        now = time.monotonic()
        expired = 0
        for req_id, state in list(self._waiting.items()):
            if not state.is_waiting:
                del self._waiting[req_id]
            elif state.deadline is not None and now >= state.deadline:
                expired += self._expire(state)
                del self._waiting[req_id]
        return expired

    def end_step(self) -> None:
        """Asks what was put off, and again for what was pending; now and then forgets old answers."""
        now = time.monotonic()
        for state in self._waiting.values():
            due = state.unasked
            state.unasked = []
            if state.pending and not state.asked and now - state.asked_at >= REASK_S:
                due = due + state.pending
                state.pending = []
            if due:
                self._send(state, due)
        if now - self._last_refresh > ANSWER_S_MAX / 2:
            self._last_refresh = now
            self._forget_old(now)

    def finish(self, req_id: str) -> None:
        self._requests.pop(req_id, None)
        self._waiting.pop(req_id, None)

    def fail(self, keys: Collection[bytes], req_id: str) -> None:
        """Loads of these failed: they are misses for this request for good, and for everybody for a while.

        Others that hold a HIT hear of it from `spread_failures`.
        """
        until = time.monotonic() + FAILED_KEY_S
        self._newly_failed.update(keys)
        self._failed.update(dict.fromkeys(keys, until))
        state = self._requests.get(req_id)  # a load may outlive its request
        if state is not None:
            state.failed.update(keys)

    def refuse(self, keys: Collection[bytes], req_id: str) -> None:
        """These are misses for this request for good."""
        state = self._requests.get(req_id)
        if state is not None:
            state.failed.update(keys)
            state.answers.update(dict.fromkeys(keys, self._miss))

    def spread_failures(self) -> None:
        """Once for all loads that have failed since, as a lost server fails hundreds at once."""
        if not self._newly_failed:
            return
        for state in self._requests.values():
            for key in state.answers.keys() & self._newly_failed:
                state.answers[key] = self._miss
        self._newly_failed.clear()

    def stored(self, keys: Iterable[bytes]) -> None:
        """These are there again."""
        if self._failed:
            for key in keys:
                self._failed.pop(key, None)

    def forgive(self) -> None:
        """A new connection: what failed on the old one may well be there. Requests that met a failure still do not ask again."""
        self._failed.clear()

    def reset(self) -> None:
        """The server is gone, or as good as gone: nobody knows anything any more."""
        for state in self._requests.values():
            state.answers.clear()
            state.asked.clear()
            state.pending.clear()
            state.unasked.clear()
            state.deadline = None
        self._waiting.clear()

    def _take_unknown(self, state: RequestState, keys: Iterable[bytes]) -> list[bytes]:
        """Keys without an answer; from here on they answer RETRY, the failed ones MISS."""
        answers = state.answers
        unknown = [key for key in keys if key not in answers]
        if self._failed or state.failed:
            now = time.monotonic()
            failed = {key for key in unknown if self._failed.get(key, 0.0) > now or key in state.failed}
            if failed:
                answers.update(dict.fromkeys(failed, self._miss))
                unknown = [key for key in unknown if key not in failed]
        answers.update(dict.fromkeys(unknown, self._retry))
        return unknown

    def _send(self, state: RequestState, keys: list[bytes]) -> None:
        question = self._ask(state, keys)
        if question is None:
            state.unasked += keys  # no room: at the end of the step, or of a later one
        else:
            state.asked[question] = keys
            state.asked_at = time.monotonic()

    def _waits(self, req_id: str, state: RequestState) -> None:
        if state.is_waiting:
            if state.deadline is None:
                state.deadline = time.monotonic() + self._deadline_s
            self._waiting[req_id] = state

    def _expire(self, state: RequestState) -> int:
        keys = [key for asked in state.asked.values() for key in asked] + state.pending + state.unasked
        state.answers.update(dict.fromkeys(keys, self._miss))
        state.asked.clear()
        state.pending.clear()
        state.unasked.clear()
        state.deadline = None
        state.settled_at = time.monotonic()
        return len(keys)

    def _forget_old(self, now: float) -> None:
        self._failed = {key: until for key, until in self._failed.items() if until > now}
        for state in self._requests.values():
            if state.answers and not state.is_waiting and now - state.settled_at > ANSWER_S_MAX:
                state.answers.clear()
