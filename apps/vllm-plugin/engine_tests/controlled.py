"""How long the tier's calls hold the scheduler where no clock tells a thread's CPU time (in User-Mode Linux it counts in ticks of 10 ms).

Every call is followed by a control, which has nothing to do with the tier: it computes as long as the call did, but at most a millisecond,
waits for nobody as long as the call had asked to, and wakes another process if the call did, which may take the only core at once. What a busy
machine does to the one it does to the other as often. Still calls that do more are caught more often by a tick, so what counts as held is told
apart from it: a call that gave up its core by itself, more often than it asked to wait, was waiting for something.
"""

import contextlib
import resource
import select
import socket
import subprocess
import sys
import time

from held import CALL_S_MAX, HeldTimer
from kvferry_vllm.client import Client

COMPUTED_S_MAX = 0.001
CALIBRATION_LOOPS = 2000
# As the server does for a message: wakes up, computes for a while, answers.
PARTNER = f"""
import os, time
while os.read(0, 4096):
    ends = time.perf_counter() + {COMPUTED_S_MAX}
    while time.perf_counter() < ends:
        pass
    os.write(0, b".")
"""


class ControlledCalls:
    """The wall time of a tier's calls, and of as many controls."""

    def __init__(self, tier, methods):
        self._timer = HeldTimer()  # for what the client asks to wait
        self._poller = select.poll()
        self._partner, end = socket.socketpair()
        self._partner.setblocking(False)
        subprocess.Popen([sys.executable, "-S", "-c", PARTNER], stdin=end)  # ends with this process
        end.close()
        self._sent = 0
        self._count_sent()
        self._loop_s = min(_timed(lambda: _compute(CALIBRATION_LOOPS)) for _ in range(50)) / CALIBRATION_LOOPS
        self._clear()
        for name in methods:
            setattr(tier, name, self._controlled(name, getattr(tier, name)))

    def _clear(self):
        self.slow, self.held, self.slowest, self.count = [], 0, 0.0, 0
        self.control_slow, self.control_slowest = 0, 0.0

    def _count_sent(self):
        original = Client._flush

        def flush(client):
            self._sent += 1
            return original(client)

        Client._flush = flush

    def _controlled(self, name, method):
        def controlled(*arguments, **named):
            asked, sent, gave_up = self._timer.asked, self._sent, self._gave_up()
            started = time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                seconds = time.perf_counter() - started
                waited = self._gave_up() > gave_up
                self._count(name, seconds, self._timer.asked - asked, self._sent > sent, waited)

        return controlled

    def _gave_up(self):
        """How often this thread has given up its core, but for the waits that the client asked for."""
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - self._timer.waits

    def _count(self, name, seconds, asked, sent, waited):
        control = _timed(lambda: self._control(seconds, asked, sent))
        self.count += 1
        self.slowest, self.control_slowest = max(self.slowest, seconds), max(self.control_slowest, control)
        self.control_slow += control > CALL_S_MAX
        if seconds > CALL_S_MAX:
            self.slow.append({"method": name, "seconds": seconds, "asked": asked, "waited": waited})
            self.held += waited or asked > CALL_S_MAX

    def _control(self, seconds, asked, sent):
        if sent:
            with contextlib.suppress(BlockingIOError):
                self._partner.send(b".")
            with contextlib.suppress(BlockingIOError):
                self._partner.recv(4096)
        if asked > 0:
            self._poller.poll(asked * 1000)
        _compute(int(max(0.0, min(seconds - asked, COMPUTED_S_MAX)) / self._loop_s))

    def take(self):
        taken = {name: getattr(self, name) for name in ("slow", "held", "slowest", "count", "control_slow", "control_slowest")}
        self._clear()
        return taken


def _compute(loops):
    for _ in range(loops):
        pass


def _timed(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
