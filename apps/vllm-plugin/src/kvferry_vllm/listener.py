"""What the owner of a `Client` is told, and the requests that it is told about."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvferry_vllm import wire


@dataclass(slots=True)
class Request:
    """One unanswered request. `owner` is whatever the listener gave."""

    id: int
    kind: str
    owner: Any
    count: int
    sent_at: float

    @property
    def is_job(self) -> bool:
        """Whether it touches the engine's memory until it is answered."""
        return self.kind in wire.JOB_KINDS


class Listener:
    """Always called from inside one of the client's own methods. What a listener does not care about it leaves out."""

    def on_ready(self, welcome: wire.Welcome, descriptors: Sequence[int]) -> None:
        """`descriptors` came with WELCOME. They are closed after this call."""

    def on_answer(self, request: Request, message: wire.Answer) -> None:
        raise NotImplementedError

    def on_removed(self, keys: bytes, reason: str) -> None: ...

    def on_stored(self, ticket: int, outcomes: bytes) -> None: ...

    def on_lost(self, requests: list[Request], reason: str) -> None:
        """The stream has ended: nothing of `requests` touches the engine's memory any more."""
        raise NotImplementedError

    def on_unresponsive(self) -> None: ...
