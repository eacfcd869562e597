"""The tier's metrics, handed over by vLLM's own hooks.

Names have no `_total`: prometheus_client adds it to counters. `build_metric_definitions` and `get_stats` are the same in
vLLM 0.30 to 0.33.
"""

from typing import Any

LOOKUP_KEYS = "vllm:kvferry_lookup_keys"
LOOKUP_SECONDS = "vllm:kvferry_lookup_seconds"
LOOKUPS_DEFERRED = "vllm:kvferry_lookups_deferred"
LOOKUPS_EXPIRED = "vllm:kvferry_lookups_expired"
STORE_BLOCKS = "vllm:kvferry_store_blocks"
LOAD_BLOCKS = "vllm:kvferry_load_blocks"
CONNECTED = "vllm:kvferry_connected"
CONNECTIONS = "vllm:kvferry_connections"
REMOVED_BLOCKS = "vllm:kvferry_removed_blocks"
SERVER_KILLS = "vllm:kvferry_server_kills"
HOLD_BLOCKS = "vllm:kvferry_hold_blocks"
HELD_BLOCKS = "vllm:kvferry_held_blocks"
UNANSWERED = "vllm:kvferry_unanswered_requests"

_COUNTERS = {
    LOOKUP_KEYS: ("Keys answered by a lookup, by result: hit, miss.", ("result",)),
    LOOKUPS_DEFERRED: ("Lookups that had no answer within lookup_budget_ms.", ()),
    LOOKUPS_EXPIRED: ("Lookups that had no answer within lookup_deadline_ms and counted as misses.", ()),
    STORE_BLOCKS: ("Blocks of ended stores, by outcome; dropped: not taken, by the server or for want of one.", ("outcome",)),
    LOAD_BLOCKS: ("Blocks of ended loads, by outcome.", ("outcome",)),
    HOLD_BLOCKS: ("Direct mode: blocks that were asked to be held in the server's memory, by outcome.", ("outcome",)),
    CONNECTIONS: ("Connections that the server has welcomed.", ()),
    REMOVED_BLOCKS: ("Blocks that the server has removed, by reason; counted when KV events are on.", ("reason",)),
    SERVER_KILLS: ("Frozen servers that were killed to get back the memory they held.", ()),
}  # fmt: skip
_GAUGES = {
    CONNECTED: "1 while the server is connected and answers.",
    HELD_BLOCKS: "Direct mode: blocks that the server holds for this engine.",
    UNANSWERED: "Requests that the server has not answered yet.",
}
_HISTOGRAMS = {
    LOOKUP_SECONDS: (
        "Time the scheduler spent in a request's first lookup, in seconds.",
        (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01),
    ),
}


def metric_definitions() -> dict[str, Any]:
    """What `build_metric_definitions` returns."""
    from vllm.v1.kv_offload.base import (
        OffloadingCounterMetadata,
        OffloadingGaugeMetadata,
        OffloadingHistogramMetadata,
    )

    definitions: dict[str, Any] = {
        name: OffloadingCounterMetadata(documentation=text, labelnames=labels)
        for name, (text, labels) in _COUNTERS.items()
    }
    definitions.update({name: OffloadingGaugeMetadata(documentation=text) for name, text in _GAUGES.items()})
    definitions.update(
        {
            name: OffloadingHistogramMetadata(documentation=text, buckets=buckets)
            for name, (text, buckets) in _HISTOGRAMS.items()
        }
    )
    return definitions


class Metrics:
    """Counts between two calls of `take`. Plain dictionaries: counting happens in the scheduler."""

    def __init__(self) -> None:
        # Here and not in `take`, which the scheduler calls: the first import takes milliseconds.
        from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats

        self._new_stats = OffloadingConnectorStats
        self._counts: dict[tuple[str, tuple[str, ...]], int] = {}
        self._observations: list[tuple[str, float]] = []
        self._gauges: dict[str, float] = {}
        self._reported_gauges: dict[str, float] = {}

    def count(self, name: str, amount: int = 1, *labels: str) -> None:
        if amount:
            key = (name, labels)
            self._counts[key] = self._counts.get(key, 0) + amount

    def observe(self, name: str, value: float) -> None:
        self._observations.append((name, value))

    def gauge(self, name: str, value: float) -> None:
        self._gauges[name] = value

    def take(self) -> Any | None:
        """What happened since the last call as vLLM's OffloadingConnectorStats, or None if nothing did."""
        if not self._counts and not self._observations and self._gauges == self._reported_gauges:
            return None
        stats = self._new_stats()
        for (name, labels), amount in self._counts.items():
            stats.increase_counter(name, amount, labels)
        for name, value in self._observations:
            stats.observe_histogram(name, value)
        for name, value in self._gauges.items():
            stats.set_gauge(name, value)
        self._counts.clear()
        self._observations.clear()
        self._reported_gauges = dict(self._gauges)
        return stats
