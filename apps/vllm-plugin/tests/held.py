"""How long a call holds its thread, said so that a busy machine cannot change it.

The client waits in one place, `Client._wait`, and says for how long at most: that is counted as it was asked for. A call that
gave up its core more often than it asked to, waited for something else: that counts with its wall time, less the time in which
the thread was ready and no core was free. Everything else counts with its CPU time.
"""

import resource
import time
from dataclasses import dataclass

from kvferry_vllm.client import Client

CALL_S_MAX = 0.005
SLOW_SHARE_MAX = 0.005  # a virtual core's clock goes on while its host runs others: a few calls look long whatever they do
TIER_METHODS = (
    "lookup", "submit_store", "submit_load", "get_finished_jobs", "has_pending_work", "take_events", "on_new_request",
    "on_request_finished", "on_schedule_end", "get_stats",
)  # fmt: skip
WAITED_FOR_SERVER_S = 1.0  # what waits for a server that does not answer takes longer


@dataclass(frozen=True)
class Held:
    seconds: float
    asked: float  # seconds that the client asked to wait, at most
    wall: float


class HeldTimer:
    """One for a thread: it looks into every client of the process."""

    def __init__(self):
        self.asked, self.waits = 0.0, 0
        original, timer = Client._wait, self

        def wait(client, seconds):
            timer.asked += max(0.0, seconds)
            timer.waits += 1
            return original(client, seconds)

        self._restore = lambda: setattr(Client, "_wait", original)
        Client._wait = wait

    def close(self):
        self._restore()

    def run(self, call, *arguments, **named):
        """The call's result, and what it held."""
        before = self._now()
        result = call(*arguments, **named)
        delay, switches, cpu, wall, asked, waits = (b - a for a, b in zip(before, self._now()))
        blocked = switches > waits
        return result, Held(max(cpu, wall - delay) if blocked else cpu + asked, asked, wall)

    def _now(self):
        with open("/proc/thread-self/schedstat") as schedstat:
            delay = int(schedstat.read().split()[1]) / 1e9
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        return delay, switches, time.thread_time(), time.perf_counter(), self.asked, self.waits


def assert_none_was_held(slow, slowest_s, count):
    """`slow`: the calls over CALL_S_MAX, of `count`; the slowest held its thread for `slowest_s`."""
    assert count > 0
    assert len(slow) <= max(1, count * SLOW_SHARE_MAX) and slowest_s < WAITED_FOR_SERVER_S, (count, slow[:20])
