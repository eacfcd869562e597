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


class ServerIdentity(msgspec.Struct):
    name: str
    version: str
    pid: int


class Welcome(msgspec.Struct, tag_field="t", tag="welcome"):
    version: int
    server: ServerIdentity
    digest: str
    requestsMax: int
    batchKeysMax: int


class States(msgspec.Struct, tag_field="t", tag="states"):
    id: int
    states: bytes


class Done(msgspec.Struct, tag_field="t", tag="done"):
    id: int
    outcomes: bytes
    codes: bytes
    us: int


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


ServerMessage = Union[Welcome, States, Done, Pong, Removed, Drain, Error]

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
