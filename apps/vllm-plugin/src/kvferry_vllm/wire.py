"""Messages and frames of the connector protocol, version 1 (docs/protocol.md)."""

import struct
from typing import Any, Union

import msgspec

PROTOCOL_VERSION = 1
FRAME_BYTES_MAX = 16 * 2**20
LOOKUP_KEYS_MAX = 65_536
REQUEST_ID_MAX = 2**32 - 1

# One byte per key of LOOKUP's answer.
STATE_MISS, STATE_HIT, STATE_PENDING = 0, 1, 2

# One byte per key of DONE.
FAILED, STORED, PRESENT, DROPPED, LOADED, MISS, CORRUPT, REMOVED = range(8)
OUTCOME_NAMES = ("failed", "stored", "present", "dropped", "loaded", "miss", "corrupt", "removed")

# Direct mode.
OFFSET_BYTES = 8
TICKET_MAX = 2**32 - 1
NO_BLOCK = 2**32 - 1  # in `blocks`: a page that is not there


class Lookup(msgspec.Struct, tag_field="t", tag="lookup"):
    id: int
    keys: bytes


class Store(msgspec.Struct, tag_field="t", tag="store"):
    id: int
    keys: bytes
    slots: bytes


class Load(msgspec.Struct, tag_field="t", tag="load"):
    id: int
    keys: bytes
    slots: bytes


class Cancel(msgspec.Struct, tag_field="t", tag="cancel"):
    id: int
    target: int


class Ping(msgspec.Struct, tag_field="t", tag="ping"):
    id: int


class Hold(msgspec.Struct, tag_field="t", tag="hold"):
    id: int
    keys: bytes


class Release(msgspec.Struct, tag_field="t", tag="release"):
    keys: bytes


class Gather(msgspec.Struct, tag_field="t", tag="gather"):
    id: int
    ticket: int
    keys: bytes
    groups: bytes
    blocks: bytes


class Scatter(msgspec.Struct, tag_field="t", tag="scatter"):
    id: int
    keys: bytes
    groups: bytes
    blocks: bytes


# What is answered, by kind. Those of JOB_KINDS touch the engine's memory until they are: the fence is about them.
REQUESTS: dict[str, Any] = {
    "lookup": Lookup, "store": Store, "load": Load, "hold": Hold, "gather": Gather, "scatter": Scatter, "ping": Ping,
}  # fmt: skip
JOB_KINDS = frozenset({"store", "load", "gather", "scatter"})
STORE_KINDS = frozenset({"store", "gather"})


class ServerIdentity(msgspec.Struct):
    name: str
    version: str
    pid: int


class DirectWelcome(msgspec.Struct):
    """`instance` names the arena, of this run of the server."""

    instance: str
    arenaBytes: int


class Welcome(msgspec.Struct, tag_field="t", tag="welcome"):
    version: int
    server: ServerIdentity
    digest: str
    requestsMax: int
    batchKeysMax: int
    direct: DirectWelcome | None = None


class States(msgspec.Struct, tag_field="t", tag="states"):
    id: int
    states: bytes


class Done(msgspec.Struct, tag_field="t", tag="done"):
    id: int
    outcomes: bytes
    codes: bytes
    us: int


class Held(msgspec.Struct, tag_field="t", tag="held"):
    """`offsets`: u64 each, where the block lies in the arena if its outcome is LOADED."""

    id: int
    outcomes: bytes
    codes: bytes
    offsets: bytes
    us: int


class Stored(msgspec.Struct, tag_field="t", tag="stored"):
    ticket: int
    outcomes: bytes
    codes: bytes


class Pong(msgspec.Struct, tag_field="t", tag="pong"):
    id: int


class Removed(msgspec.Struct, tag_field="t", tag="removed"):
    keys: bytes
    reason: str


class Drain(msgspec.Struct, tag_field="t", tag="drain"):
    pass


class Error(msgspec.Struct, tag_field="t", tag="error"):
    code: str
    message: str = ""
    id: int | None = None
    context: dict[str, Any] = {}


Answer = Union[States, Done, Held, Error]
ServerMessage = Union[Welcome, States, Done, Held, Stored, Pong, Removed, Drain, Error]

_HEADER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ServerMessage)


def encode_frame(message: Any) -> bytes:
    """One frame: the length, then the MessagePack map.

    Raises:
        ValueError: if the body is longer than a frame may be.
    """
    body = _encoder.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame holds at most {FRAME_BYTES_MAX} bytes, this message has {len(body)}")
    return _HEADER.pack(len(body)) + body


def frame_length(header: Any, offset: int = 0) -> int:
    """Bytes of the body that follows this header."""
    return _HEADER.unpack_from(header, offset)[0]


def decode_body(body: Any) -> ServerMessage:
    """What the server said.

    Raises:
        msgspec.DecodeError: (or its child ValidationError) for anything that is not a message of the protocol.
    """
    return _decoder.decode(body)
