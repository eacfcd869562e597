"""A client of the connector protocol that never blocks: a state machine that its owner polls.

Nothing here runs on its own. `poll` connects, sends, receives and dispatches as far as that goes without waiting, or
waits up to the seconds it was given. There are no threads, so there are no locks.

    DOWN ──connect, HELLO──► GREETING ──WELCOME──► READY ──end of stream──► DOWN (again at once, then with backoff)
                                 └────── close, a frame that makes no sense ──────► CLOSING ──end of stream──► DOWN

The fence (docs/protocol.md): a request leaves `unanswered` only when the server has answered it or has ended the
stream. A stream that this side gives up is shut for writing and read to its end; until then its requests stay.
"""

import array
import enum
import logging
import os
import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kvferry_vllm import wire
from kvferry_vllm.listener import Listener, Request
from kvferry_vllm.peer import Peer

logger = logging.getLogger("vllm.kvferry.client")

SEND_QUEUE_BYTES_MAX = 4 * 2**20
RECEIVE_BYTES = 256 * 1024
DESCRIPTORS_MAX = 4  # that come with WELCOME
RECEIVE_ROUNDS_MAX = 32  # a poll ends, whatever the server sends
GREETING_TIMEOUT_S = 30.0
PING_AFTER_S = 0.25  # silence after which an unanswered request is followed by a ping
UNRESPONSIVE_AFTER_S = 1.0
WATCH_GAP_S_MAX = 1.0  # a poll that comes late vouches for no more than this: we may have been stopped, not the server
BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 1.0
REFUSED_BACKOFF_S = 15.0  # HELLO was refused for a reason that will not pass by itself
CLOSING_PATIENCE = 6  # a connection we gave up answers no pings: it gets this many times fence_kill_after_s
STABLE_AFTER_S = 1.0  # a connection that lived this long earns an immediate reconnect
STORE_WINDOW_SHARE = 0.75  # loads and lookups always find room


class State(enum.Enum):
    DOWN = "down"
    GREETING = "greeting"
    READY = "ready"
    CLOSING = "closing"
    CLOSED = "closed"


class Client:
    """One engine's connection to the server.

    Args:
        path: the server's socket.
        listener: told of everything that happens.
        fence_kill_after_s: a server that has been frozen this long while jobs are unanswered is killed, so that the
            kernel ends its I/O and the stream; None never kills.
        before_hello: told the pid of the server, or None where it is not visible, before HELLO is sent.
    """

    def __init__(
        self,
        path: str,
        listener: Listener,
        fence_kill_after_s: float | None = 10.0,
        before_hello: Callable[[int | None], None] | None = None,
    ) -> None:
        self.path = path
        self.state = State.DOWN
        self.draining = False
        self.responsive = True
        self.requests_max = 0
        self.batch_keys_max = 0
        self.connects = 0
        self.unanswered_jobs = 0
        self.last_error: wire.Error | None = None
        self.greeted_at = 0.0
        self.open_at = 0.0  # when the stream was last seen not to have ended
        self._listener = listener
        self._before_hello = before_hello
        self._fence_kill_after_s = fence_kill_after_s
        self._kills = 0
        self._hello: dict[str, Any] | None = None
        self._descriptors: Sequence[int] = ()
        self._received_descriptors: list[int] = []
        self._socket: socket.socket | None = None
        self._readable = select.poll()  # of the connection, while there is one
        self._peer: Peer | None = None
        self._requests: dict[int, Request] = {}
        self._next_id = 0
        self._out: deque[memoryview] = deque()
        self._out_bytes = 0
        self._in = bytearray()
        self._scratch = memoryview(bytearray(RECEIVE_BYTES))
        self._retry_at = 0.0
        self._backoff_s = 0.0
        self._ping_outstanding = False
        self._last_heard = 0.0
        self._last_watch = 0.0
        self._silent_for_s = 0.0
        self._kill_refused_logged = False
        self._down_logged = False

    # -- what the owner asks --

    @property
    def usable(self) -> bool:
        """Whether a request sent now can be hoped to be answered."""
        return self.state is State.READY and self.responsive and not self.draining

    @property
    def unanswered(self) -> int:
        return len(self._requests)

    def start(self, hello: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Says what HELLO will say, and connects. `descriptors` go with it; they stay the caller's and must stay open."""
        self._hello = hello
        self._descriptors = descriptors
        self._retry_at = 0.0
        self.poll()

    def poll(self, wait_s: float = 0.0) -> None:
        """Goes as far as it can; waits up to `wait_s` for something to happen if there is a connection."""
        if self._socket is None:
            if self._hello is None or self.state is State.CLOSED or time.monotonic() < self._retry_at:
                return
            self._connect()
            if self._socket is None:
                return
        if wait_s > 0:
            self._wait(wait_s)
        if self._out:
            self._flush()
        now = time.monotonic()
        self._receive()
        if self._socket is not None:
            self.open_at = now
        if self._requests or self.state is not State.READY:
            self._watch()

    def submit(self, kind: str, owner: Any, count: int, **fields: Any) -> int | None:
        """Sends a request of `count` keys, or queues what the socket does not take at once.

        Args:
            kind: one of `wire.REQUESTS`; `fields` are those of its message.

        Returns:
            its id, or None where there is no room: not READY, the window or the queue is full.
        """
        if self.state is not State.READY or not self._has_room(kind):
            return None
        request = Request(self._new_id(), kind, owner, count, time.monotonic())
        frame = wire.encode_frame(wire.REQUESTS[kind](request.id, **fields))
        self._requests[request.id] = request
        if request.is_job:
            self.unanswered_jobs += 1
        if not self._ping_outstanding and request.sent_at - self._last_heard > PING_AFTER_S:
            self._ping(request.sent_at)
        self._send(frame)
        return request.id

    def tell(self, message: Any) -> bool:
        """Sends what has no answer. False where there is no room."""
        if self.state is not State.READY or self._out_bytes > SEND_QUEUE_BYTES_MAX:
            return False
        self._send(wire.encode_frame(message))
        return True

    def watch_server(self) -> int | None:
        """A new descriptor, the caller's, that becomes readable when the server's process has ended; None where it cannot be watched."""
        return None if self._peer is None else self._peer.watch()

    def take_kills(self) -> int:
        """How many servers were killed since the last call."""
        kills, self._kills = self._kills, 0
        return kills

    def restart(self) -> None:
        """Ends this connection by the protocol, so that the next one says HELLO anew."""
        if self.state in (State.GREETING, State.READY):
            self._begin_closing()

    def close(self, timeout_s: float) -> bool:
        """Closes by the protocol: no more requests, then wait for the end of the stream.

        Returns:
            whether the server ended the stream in time. If not, I/O of unanswered requests may still be under way.
        """
        deadline = time.monotonic() + timeout_s
        self._hello = None
        if self.state in (State.GREETING, State.READY):
            while self._out and time.monotonic() < deadline:
                self._wait(deadline - time.monotonic())
                self._flush()
            self._begin_closing()
        while self._socket is not None and time.monotonic() < deadline:
            self.poll(deadline - time.monotonic())
        ended = self._socket is None
        if not ended:
            self._drop_socket()
        self.state = State.CLOSED
        return ended

    # -- connecting --

    def _connect(self) -> None:
        now = time.monotonic()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        peer: Peer | None = None
        try:
            connection.connect(self.path)  # a Unix socket connects at once or not at all
            peer = Peer.of(connection)
            if self._before_hello is not None:
                self._before_hello(None if peer is None else peer.pid)
            frame = wire.encode_frame(self._hello)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self._descriptors))]
            sent = connection.sendmsg([frame], rights if self._descriptors else [])
        except OSError as error:
            connection.close()
            if peer is not None:
                peer.close()
            self._back_off(now)
            if not self._down_logged:
                self._down_logged = True
                logger.warning("kvferry: no server at %s (%s); going on without it, and trying again", self.path, error)
            return
        self._socket = connection
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._peer = peer
        self.state = State.GREETING
        self.greeted_at = self.open_at = self._last_heard = self._last_watch = now
        self._silent_for_s = 0.0
        self._ping_outstanding = False
        self.responsive = True
        self.draining = False
        if sent < len(frame):
            self._queue(memoryview(frame)[sent:])

    def _back_off(self, now: float, at_least_s: float = 0.0) -> None:
        self._retry_at = now + max(at_least_s, self._backoff_s * random.uniform(0.75, 1.25))
        self._backoff_s = min(BACKOFF_S_MAX, max(BACKOFF_S_MIN, self._backoff_s * 2))

    # -- sending --

    def _has_room(self, kind: str) -> bool:
        if self._out_bytes > SEND_QUEUE_BYTES_MAX:
            return False
        window = self.requests_max * STORE_WINDOW_SHARE if kind in wire.STORE_KINDS else self.requests_max - 1
        return len(self._requests) < max(1, window)

    def _new_id(self) -> int:
        while True:
            candidate = self._next_id
            self._next_id = 0 if candidate >= wire.REQUEST_ID_MAX else candidate + 1
            if candidate not in self._requests:
                return candidate

    def _ping(self, now: float) -> None:
        request = Request(self._new_id(), "ping", None, 0, now)
        self._requests[request.id] = request
        self._ping_outstanding = True
        self._silent_for_s = 0.0
        self._last_watch = now
        self._send(wire.encode_frame(wire.Ping(request.id)))

    def _send(self, frame: bytes) -> None:
        self._queue(memoryview(frame))
        if len(self._out) == 1:
            self._flush()

    def _queue(self, data: memoryview) -> None:
        self._out.append(data)
        self._out_bytes += len(data)

    def _flush(self) -> None:
        assert self._socket is not None
        while self._out:
            data = self._out[0]
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # The server is gone. What it still said, and the end of the stream, are for _receive to find.
                self._out.clear()
                self._out_bytes = 0
                return
            self._out_bytes -= sent
            if sent < len(data):
                self._out[0] = data[sent:]
                return
            self._out.popleft()

    # -- receiving --

    def _wait(self, seconds: float) -> None:
        assert self._socket is not None
        fd = self._socket.fileno()
        if seconds <= 0:
            return
        if fd < 1024:  # select has microseconds, poll only milliseconds
            select.select([fd], [fd] if self._out else [], [], seconds)
            return
        poller = select.poll()
        poller.register(fd, select.POLLIN | (select.POLLOUT if self._out else 0))
        poller.poll(max(1, int(seconds * 1000)))

    def _receive(self) -> None:
        if not self._readable.poll(0):  # far cheaper than an exception that says so
            return
        for _ in range(RECEIVE_ROUNDS_MAX):
            if self._socket is None:
                return
            try:
                received = self._receive_some()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                return self._lost(str(error))
            if received == 0:
                return self._lost("the server ended the connection")
            if self.state is State.CLOSING:
                continue
            self._heard()
            self._in += self._scratch[:received]
            self._parse()
            if received < len(self._scratch):
                return

    def _receive_some(self) -> int:
        assert self._socket is not None
        if self.state is not State.GREETING:
            return self._socket.recv_into(self._scratch)  # descriptors that nobody expects are closed by the kernel
        room = socket.CMSG_SPACE(DESCRIPTORS_MAX * 4)
        received, ancillary, _, _ = self._socket.recvmsg_into([self._scratch], room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._received_descriptors += array.array("i", data[: len(data) - len(data) % 4])
        return received

    def _heard(self) -> None:
        self._last_heard = time.monotonic()
        self._silent_for_s = 0.0
        if not self.responsive:
            self.responsive = True
            logger.warning("kvferry: the server at %s answers again", self.path)

    def _parse(self) -> None:
        at, data = 0, self._in
        while len(data) - at >= wire.HEADER_BYTES and self.state in (State.GREETING, State.READY):
            length = wire.frame_length(data, at)
            if not 1 <= length <= wire.FRAME_BYTES_MAX:
                return self.distrust(f"a frame of {length} bytes")
            end = at + wire.HEADER_BYTES + length
            if len(data) < end:
                break
            try:
                message = wire.decode_body(bytes(data[at + wire.HEADER_BYTES : end]))
            except msgspec.DecodeError as error:
                return self.distrust(str(error))
            at = end
            self._dispatch(message)
        if self.state in (State.GREETING, State.READY):
            del self._in[:at]

    def _dispatch(self, message: wire.ServerMessage) -> None:
        if isinstance(message, (wire.States, wire.Done, wire.Held, wire.Pong)):
            self._answered(message)
        elif isinstance(message, wire.Error):
            if message.id is None:
                self._fatal(message)
            else:
                self._answered(message)
        elif isinstance(message, wire.Welcome):
            self._welcomed(message)
        elif isinstance(message, wire.Removed):
            self._listener.on_removed(message.keys, message.reason)
        elif isinstance(message, wire.Stored):
            self._listener.on_stored(message.ticket, message.outcomes)
        elif isinstance(message, wire.Drain):
            self.draining = True
            logger.info("kvferry: the server at %s is about to end", self.path)

    def _welcomed(self, welcome: wire.Welcome) -> None:
        if self.state is not State.GREETING or welcome.version != wire.PROTOCOL_VERSION:
            return self.distrust(f"WELCOME of version {welcome.version} in state {self.state.value}")
        if welcome.requestsMax < 2 or welcome.batchKeysMax < 1:
            return self.distrust("WELCOME with limits that allow nothing")
        self.state = State.READY
        self.requests_max, self.batch_keys_max = welcome.requestsMax, welcome.batchKeysMax
        self.connects += 1
        self.last_error = None
        self._down_logged = self._kill_refused_logged = False
        if self._peer is not None:
            self._peer.confirm(welcome.server.pid)
        logger.info(
            "kvferry: connected to %s %s at %s, namespace %s",
            welcome.server.name, welcome.server.version, self.path, welcome.digest[:12],
        )  # fmt: skip
        self._listener.on_ready(welcome, self._received_descriptors)
        self._close_received_descriptors()

    def _answered(self, message: wire.Answer | wire.Pong) -> None:
        request = self._requests.get(message.id)  # type: ignore[arg-type]
        if request is None:
            return self.distrust(f"an answer to request {message.id}, which was not asked")
        if isinstance(message, wire.States):
            fits = request.kind == "lookup" and len(message.states) == request.count
        elif isinstance(message, wire.Done):
            fits = request.is_job and len(message.outcomes) == len(message.codes) == request.count
        elif isinstance(message, wire.Held):
            fits = request.kind == "hold" and len(message.outcomes) == len(message.codes) == request.count
            fits = fits and len(message.offsets) == request.count * wire.OFFSET_BYTES
        elif isinstance(message, wire.Pong):
            fits = request.kind == "ping"
        else:
            fits = True
        if not fits:
            return self.distrust(f"an answer that does not fit request {request.id} ({request.kind})")
        del self._requests[request.id]
        if request.kind == "ping":
            self._ping_outstanding = False
            return
        if request.is_job:
            self.unanswered_jobs -= 1
        self._listener.on_answer(request, message)  # type: ignore[arg-type]

    # -- endings --

    def _fatal(self, error: wire.Error) -> None:
        field = error.context.get("field")
        logger.error(
            "kvferry: the server at %s refused us: %s: %s%s",
            self.path, error.code, error.message, f" (field '{field}')" if field else "",
        )  # fmt: skip
        self.last_error = error
        self._begin_closing()

    def distrust(self, what: str) -> None:
        logger.error("kvferry: the server at %s sent what makes no sense: %s; closing", self.path, what)
        self._begin_closing()

    def _begin_closing(self) -> None:
        assert self._socket is not None
        self.state = State.CLOSING
        self._silent_for_s = 0.0
        self._in.clear()
        self._out.clear()
        self._out_bytes = 0
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended already, which _receive will find
        if not self.unanswered_jobs and self._hello is not None:
            self._lost("closed by us, with nothing under way")

    def _lost(self, reason: str) -> None:
        now = time.monotonic()
        lived_s = now - self.greeted_at
        was_ready = self.connects > 0 and self.state is not State.GREETING
        self._drop_socket()
        requests = list(self._requests.values())
        self._requests.clear()
        self.unanswered_jobs = 0
        if was_ready and lived_s > STABLE_AFTER_S and self.last_error is None:
            self._backoff_s = 0.0
        self._back_off(now, REFUSED_BACKOFF_S if self._was_refused_for_good() else 0.0)
        if self._hello is not None:
            logger.warning("kvferry: connection to %s lost (%s)", self.path, reason)
        self._listener.on_lost(requests, reason)

    def _was_refused_for_good(self) -> bool:
        return self.last_error is not None and self.last_error.code in (
            "INVALID_ARGUMENT", "UNSUPPORTED", "PERMISSION", "CONFIG_INVALID", "PROTOCOL", "NAMESPACE_MISMATCH",
        )  # fmt: skip

    def _close_received_descriptors(self) -> None:
        for descriptor in self._received_descriptors:
            os.close(descriptor)
        self._received_descriptors.clear()

    def _drop_socket(self) -> None:
        self._close_received_descriptors()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._in.clear()
        self._out.clear()
        self._out_bytes = 0
        self.responsive = True
        self.draining = False
        self.state = State.DOWN

    # -- watching a silent server --

    def _watch(self) -> None:
        now = time.monotonic()
        gap_s = min(max(0.0, now - self._last_watch), WATCH_GAP_S_MAX)
        self._last_watch = now
        if self.state is State.GREETING:
            if now - self.greeted_at > GREETING_TIMEOUT_S:
                self._lost("no answer to HELLO")
            return
        if self.state is State.READY and not self._ping_outstanding:
            if self._requests and now - self._last_heard > PING_AFTER_S:
                self._ping(now)
            return
        self._silent_for_s += gap_s
        if self.state is State.READY and self.responsive and self._silent_for_s >= UNRESPONSIVE_AFTER_S:
            self.responsive = False
            logger.error("kvferry: the server at %s does not answer; its cache counts as empty until it does", self.path)
            self._listener.on_unresponsive()
        if self._fence_kill_after_s is None or not self.unanswered_jobs:
            return
        limit_s = self._fence_kill_after_s * (CLOSING_PATIENCE if self.state is State.CLOSING else 1)
        if self._silent_for_s >= limit_s:
            self._kill()

    def _kill(self) -> None:
        """The last resort of the fence: only the end of the process tells us that its I/O has ended."""
        self._silent_for_s = 0.0
        refusal = "its process id is not visible here" if self._peer is None else self._peer.kill()
        if refusal is None:
            self._kills += 1
            logger.critical(
                "kvferry: KILLED the server at %s: it did not answer for %s s while %d transfers were under way, and the "
                "engine's memory can only be used again once that process has ended. Set fence_kill_after_s to null to "
                "wait instead.",
                self.path, self._fence_kill_after_s, self.unanswered_jobs,
            )  # fmt: skip
        elif not self._kill_refused_logged:
            self._kill_refused_logged = True
            logger.error(
                "kvferry: the server at %s is frozen with %d transfers under way and cannot be ended from here: %s",
                self.path, self.unanswered_jobs, refusal,
            )  # fmt: skip
