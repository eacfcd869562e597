"""Which blocks the server keeps in its arena for this engine, and who needs them.

    wanted ──HOLD──► asked ──LOADED──► held, by the requests that wait ──prepare_load──► held, by the load ──► RELEASE
                       └──BUSY──► wanted again, for a while     └── the request ends, or looks elsewhere ──► RELEASE

However many requests need a block, it is held once. Every HOLD that was answered LOADED is given back by one RELEASE, unless the server that
held it has ended: `held_count` is `released_count + ended_count` and what is still needed.

What was held by a connection that has been lost is stale: it is no hit any more, but a load of it can still be prepared in the step that
had called it a hit. The workers decide whether the bytes can be trusted (arena.py).
"""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from kvferry_vllm import wire

BUSY = 8  # docs/errors.md
INTEREST_S_MAX = 2.0  # a request that has not looked for this long has been scheduled, or waits behind others
ANSWER_S_MAX = 30.0  # a HOLD without an answer after this is given up
TIDY_S = 0.5
REASK_S = 0.002
RESET_S = 60.0  # what loads held when the cache was reset, where vLLM does not tell that they have ended (before 0.33)


@dataclass(slots=True)
class Hold:
    """One block in the arena."""

    key: bytes
    offset: int
    instance: str
    needed_by: int = 0  # requests and loads
    is_live: bool = True  # its connection has not been lost


@dataclass(slots=True)
class Interest:
    """What a request that is not scheduled yet needs."""

    held: dict[bytes, Hold] = field(default_factory=dict)
    asked: set[bytes] = field(default_factory=set)
    seen_at: float = 0.0
    asked_at: float = 0.0
    busy_until: float | None = None


class Holds:
    """
    Args:
        ask: sends one HOLD, `(keys) -> id or None where there is no room`.
        release: sends one RELEASE, `(keys) -> whether there was room`.
        refused: told of keys that a request will not get.
        busy_s: how long BUSY is asked again.
    """

    def __init__(
        self,
        ask: Callable[[list[bytes]], int | None],
        release: Callable[[list[bytes]], bool],
        refused: Callable[[str, list[bytes]], None],
        busy_s: float,
    ) -> None:
        self._ask, self._send_release, self._refused, self._busy_s = ask, release, refused, busy_s
        self.batch_keys_max = 1
        self.instance = ""
        self._live: dict[bytes, Hold] = {}
        self._requests: dict[str, Interest] = {}
        self._loads: dict[str, dict[bytes, Hold]] = {}
        self._waiting: dict[bytes, set[str]] = {}  # of keys that are wanted or asked: who waits
        self._wanted: list[bytes] = []
        self._busy: list[bytes] = []
        self._questions: dict[int, list[bytes]] = {}
        self._to_release: list[bytes] = []
        self._from_reset: list[tuple[float, list[Hold]]] = []
        self._has_stale = False
        self._sent_at = self._tidied_at = 0.0
        self.held_count = self.released_count = self.ended_count = 0

    @property
    def is_asking(self) -> bool:
        return bool(self._questions or self._wanted or self._busy)

    @property
    def live_count(self) -> int:
        return len(self._live)

    def of(self, req_id: str) -> Interest | None:
        return self._requests.get(req_id)

    def want(self, req_id: str, keys: Iterable[bytes]) -> Interest:
        """The request needs these. What is held is its at once; `send` asks for the rest."""
        now = time.monotonic()
        interest = self._requests.get(req_id)
        if interest is None:
            interest = self._requests[req_id] = Interest()
        interest.seen_at = now
        for key in keys:
            if key in interest.asked:
                continue
            hold = self._live.get(key)
            if hold is not None:
                self._give(interest, hold)
                continue
            if not interest.asked:
                interest.asked_at = now
            interest.asked.add(key)
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = {req_id}
                self._wanted.append(key)
            else:
                waiting.add(req_id)
        return interest

    def send(self) -> None:
        """Asks for what is wanted, as far as there is room."""
        while self._wanted:
            batch = self._wanted[: self.batch_keys_max]
            question = self._ask(batch)
            if question is None:
                return
            self._sent_at = time.monotonic()
            self._questions[question] = batch
            del self._wanted[: len(batch)]

    def answered(self, question: int, held: wire.Held | None, is_busy: bool = False) -> None:
        """Takes the answer to a HOLD; None where it failed as a whole."""
        keys = self._questions.pop(question)
        if held is None:
            for key in keys:
                self._not_held(key, is_busy)
            return
        offsets = np.frombuffer(held.offsets, dtype="<u8").tolist()
        for key, outcome, code, offset in zip(keys, held.outcomes, held.codes, offsets):
            if outcome == wire.LOADED:
                self._is_held(key, offset)
            else:
                self._not_held(key, outcome == wire.FAILED and code == BUSY)

    # -- loads --

    def prepare(self, req_id: str, keys: Collection[bytes]) -> list[Hold]:
        """A load needs these from now on, whatever becomes of the request; what else the request held is released.

        Raises:
            KeyError: if one is not held for the request: it was not a hit.
        """
        interest = self._requests.pop(req_id, None) or Interest()
        holds = {}
        for key in keys:
            hold = interest.held.get(key)
            if hold is None:
                hold = self._live[key]
                hold.needed_by += 1
            holds[key] = hold
        for key, hold in interest.held.items():
            if holds.get(key) is not hold:
                self._drop(hold)
        self._loads.setdefault(req_id, {}).update(holds)
        return list(holds.values())

    def complete(self, req_id: str, keys: Iterable[bytes]) -> None:
        loads = self._loads.get(req_id)
        if loads is None:
            return  # it was under way when the cache was reset
        for key in keys:
            hold = loads.pop(key, None)
            if hold is not None:
                self._drop(hold)
        if not loads:
            del self._loads[req_id]

    # -- endings --

    def finish(self, req_id: str) -> None:
        """The request needs nothing any more. Its load, if one is under way, does."""
        interest = self._requests.pop(req_id, None)
        if interest is not None:
            for hold in interest.held.values():
                self._drop(hold)

    def end_step(self) -> None:
        """Asks what was put off, and again where the server was busy; lets go what nobody looks for any more."""
        now = time.monotonic()
        if self._has_stale:
            self._drop_stale()
        if now - self._tidied_at > TIDY_S:
            self._tidied_at = now
            self._tidy(now)
        if self._busy and now - self._sent_at >= REASK_S:
            self._wanted += self._busy
            self._busy = []
        self.send()
        self.flush()

    def flush(self) -> None:
        """Sends RELEASE for what is not needed, as far as there is room."""
        while self._to_release and self._send_release(self._to_release[: self.batch_keys_max]):
            del self._to_release[: self.batch_keys_max]

    def ready(self, instance: str, batch_keys_max: int) -> None:
        """A new connection."""
        self.batch_keys_max = batch_keys_max
        if instance != self.instance:
            self.instance = instance
            self.released_count -= len(self._to_release)
            self.ended_count += len(self._to_release)
            self._to_release.clear()

    def lost(self) -> None:
        """The connection has ended. Nothing is a hit any more, and nothing is on its way."""
        for hold in self._live.values():
            hold.is_live = False
        self._has_stale = self._has_stale or bool(self._live)
        self._live.clear()
        self._questions.clear()
        self.give_up()

    def give_up(self) -> None:
        """The server does not answer: nobody waits. What it holds all the same when it answers is released then."""
        self._waiting.clear()
        self._wanted.clear()
        self._busy.clear()
        for interest in self._requests.values():
            interest.asked.clear()
            interest.busy_until = None

    def reset(self, is_told: bool) -> None:
        """vLLM forgets its requests and loads, but the workers may still be copying. `is_told`: `reset_ended` will be called."""
        for req_id in list(self._requests):
            self.finish(req_id)
        left = [hold for loads in self._loads.values() for hold in loads.values()]
        self._loads.clear()
        if left:
            self._from_reset.append((float("inf") if is_told else time.monotonic() + RESET_S, left))

    def reset_ended(self, now: float = float("inf")) -> None:
        """What loads held at a reset is not needed any more: of all resets, or of those whose time is over."""
        due = [holds for until, holds in self._from_reset if until <= now]
        self._from_reset = [each for each in self._from_reset if each[0] > now]
        for hold in (hold for holds in due for hold in holds):
            self._drop(hold)

    # -- accounts --

    def _give(self, interest: Interest, hold: Hold) -> None:
        previous = interest.held.get(hold.key)
        if previous is hold:
            return
        interest.held[hold.key] = hold
        hold.needed_by += 1
        if previous is not None:
            self._drop(previous)

    def _is_held(self, key: bytes, offset: int) -> None:
        self.held_count += 1
        hold = self._live.get(key)
        if hold is not None:
            self._release(hold)  # given up and asked for again: it was held twice
        else:
            hold = self._live[key] = Hold(key, offset, self.instance)
        for req_id in self._waiting.pop(key, ()):
            interest = self._requests.get(req_id)
            if interest is not None and key in interest.asked:
                interest.asked.discard(key)
                self._give(interest, hold)
        if not hold.needed_by:
            self._end(hold)

    def _not_held(self, key: bytes, is_busy: bool) -> None:
        now = time.monotonic()
        again = set()
        for req_id in self._waiting.pop(key, ()):
            interest = self._requests.get(req_id)
            if interest is None or key not in interest.asked:
                continue
            if is_busy and interest.busy_until is None:
                interest.busy_until = now + self._busy_s
            if is_busy and now < (interest.busy_until or 0.0):
                again.add(req_id)
            else:
                interest.asked.discard(key)
                self._refused(req_id, [key])
        if again:
            self._waiting[key] = again
            self._busy.append(key)

    def _drop(self, hold: Hold) -> None:
        hold.needed_by -= 1
        if not hold.needed_by:
            self._end(hold)

    def _end(self, hold: Hold) -> None:
        if hold.is_live:
            del self._live[hold.key]
        self._release(hold)

    def _release(self, hold: Hold) -> None:
        if hold.instance == self.instance:
            self.released_count += 1
            self._to_release.append(hold.key)
        else:
            self.ended_count += 1

    def _drop_stale(self) -> None:
        self._has_stale = False
        for interest in self._requests.values():
            for hold in [each for each in interest.held.values() if not each.is_live]:
                del interest.held[hold.key]
                self._drop(hold)

    def _tidy(self, now: float) -> None:
        for req_id, interest in list(self._requests.items()):
            if now - interest.seen_at > INTEREST_S_MAX:
                self.finish(req_id)
            elif interest.asked and now - interest.asked_at > ANSWER_S_MAX:
                self._refused(req_id, list(interest.asked))
                interest.asked.clear()
        if self._from_reset:
            self.reset_ended(now)
