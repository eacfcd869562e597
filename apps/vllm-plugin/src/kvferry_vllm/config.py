"""What can be set: of a tier in `secondary_tiers`, or in the map `kvferry` of direct mode. Checked field by field."""

import difflib
import os
import re
from dataclasses import dataclass, fields
from typing import Any

SOCKET_PATH_BYTES_MAX = 107  # sun_path, without its end


@dataclass(frozen=True)
class TierConfig:
    """What can be set.

    Attributes:
        socket: the server's socket.
        tenant: tenants never share blocks; "" is the common one.
        lookup_budget_ms: how long the scheduler waits for the answer to a request's first lookup.
        lookup_deadline_ms: a lookup that has no answer after this counts as a miss.
        enable_kv_events: emit stored and removed events; effective when vLLM's own KV events are on.
        locality: "LOCAL" or "REMOTE", for requests that choose their tiers.
        weights: fingerprint of the weights, hex of 16 to 64 bytes, instead of the one that is computed.
        fence_kill_after_s: end a frozen server that holds transfers after this many seconds; None waits for ever.
    """

    socket: str
    tenant: str = ""
    lookup_budget_ms: float = 2.0
    lookup_deadline_ms: float = 250.0
    enable_kv_events: bool = False
    locality: str | None = None
    weights: str | None = None
    fence_kill_after_s: float | None = 10.0


def parse_config(options: dict[str, Any]) -> TierConfig:
    """Checks what the user wrote.

    Raises:
        ValueError: naming the field, what is wrong with it and what to write instead.
    """
    known = {field.name for field in fields(TierConfig)}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"kvferry knows {', '.join(sorted(known))}."
            raise _wrong(name, "is not an option of kvferry", hint)
    values = dict(options)
    values["socket"] = _socket(values.get("socket"))
    _check_text(values, "tenant", 4096)
    _check_number(values, "lookup_budget_ms", 0, 1000)
    _check_number(values, "lookup_deadline_ms", 0, 60_000)
    _check_number(values, "fence_kill_after_s", 1, 86_400, or_none=True)
    if not isinstance(values.get("enable_kv_events", False), bool):
        raise _wrong("enable_kv_events", f"is {values['enable_kv_events']!r}", "write true or false.")
    if values.get("locality") is not None:
        values["locality"] = str(values["locality"]).upper()
        if values["locality"] not in ("LOCAL", "REMOTE"):
            raise _wrong("locality", f"is {options['locality']!r}", 'write "LOCAL", "REMOTE" or leave it out.')
    weights = values.get("weights")
    if weights is not None and not (isinstance(weights, str) and re.fullmatch(r"([0-9a-f]{2}){16,64}", weights)):
        raise _wrong("weights", f"is {weights!r}", "write 32 to 128 lower-case hex digits, such as a SHA-256.")
    return TierConfig(**values)


def default_socket_path() -> str:
    """KVFERRY_SOCKET, else the user's run-time folder, else /tmp."""
    if path := os.environ.get("KVFERRY_SOCKET"):
        return path
    if folder := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(folder, "kvferry", "kvferry.sock")
    return f"/tmp/kvferry-{os.getuid()}/kvferry.sock"


def _socket(value: Any) -> str:
    path = default_socket_path() if value is None else value
    if not isinstance(path, str) or not path:
        raise _wrong("socket", f"is {value!r}", 'write a path, such as "/run/kvferry/kvferry.sock".')
    path = os.path.expanduser(path)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise _wrong(
            "socket",
            f"is longer than the {SOCKET_PATH_BYTES_MAX} bytes that the system allows: {path}",
            "use a shorter path, or a symbolic link to the folder.",
        )
    return path


def _check_text(values: dict[str, Any], name: str, length_max: int) -> None:
    value = values.get(name, "")
    if not isinstance(value, str) or len(value) > length_max:
        raise _wrong(name, f"is {value!r}", f"write a text of at most {length_max} characters.")


def _check_number(values: dict[str, Any], name: str, low: float, high: float, or_none: bool = False) -> None:
    if name not in values:
        return
    value = values[name]
    if value is None and or_none:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _wrong(name, f"is {value!r}", f"write a number from {low} to {high}{' or null' if or_none else ''}.")


def _wrong(name: str, what: str, fix: str) -> ValueError:
    return ValueError(f"kvferry: option '{name}' {what}; {fix}")
