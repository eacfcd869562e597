"""A stand-in for the kvferry server: blocks in memory, and faults on demand.

Not the server: it does not check what it is sent. In a test it runs in a thread (`StandInServer`); as a program,
`python stand_in_server.py SOCKET`, in a process of its own that can be stopped and killed.
"""

import array
import mmap
import os
import select
import socket
import struct
import sys
import threading
import time

import msgspec

STORED, PRESENT, LOADED, MISS, FAILED = 1, 2, 4, 5, 0


class StandInServer:
    """One thread, one loop. Attributes may be set while it runs.

    Attributes:
        blocks: what is stored: key -> bytes.
        delay_s: by message type, how long an answer waits.
        silent: types that get no answer at all.
        pending: keys that a lookup calls PENDING.
        outcomes: by key, the outcome to give instead of the true one.
        garbage: bytes to send instead of the next answer.
        keep_after_end: a client's end of the stream is not answered by ours.
        refuse: (code, message, context) to answer HELLO with.
        reading: False leaves everything in the socket's buffer.
        seen: every message that came, newest last.
    """

    def __init__(self, path, requests_max=64, batch_keys_max=1024):
        self.path = path
        self.requests_max, self.batch_keys_max = requests_max, batch_keys_max
        self.blocks, self.delay_s, self.silent, self.pending, self.outcomes = {}, {}, set(), set(), {}
        self.garbage, self.refuse, self.reading = None, None, True
        self.keep_after_end = False
        self.seen = []
        self.connections = 0
        self._stop = threading.Event()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.exists(path):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(16)
        self._peers = {}
        self._thread = None

    def __enter__(self):
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def drop_connections(self):
        for peer in list(self._peers.values()):
            peer.dropped = True

    def push(self, message):
        for peer in list(self._peers.values()):
            peer.later.append((0, frame_of(message), ()))

    def count(self, kind):
        return sum(1 for message in self.seen if message["t"] == kind)

    def serve(self):
        while not self._stop.is_set():
            readable = [self._listener] + ([peer.socket for peer in self._peers.values() if not peer.ended] if self.reading else [])
            ready, _, _ = select.select(readable, [], [], 0.0005)
            for each in ready:
                if each is self._listener:
                    connection, _ = self._listener.accept()
                    self._peers[connection.fileno()] = _Peer(connection)
                    self.connections += 1
                else:
                    self._read(self._peers[each.fileno()])
            for fd, peer in list(self._peers.items()):
                peer.send_due()
                if peer.dropped:
                    peer.socket.close()
                    del self._peers[fd]
        for peer in self._peers.values():
            peer.socket.close()
        self._listener.close()
        if os.path.exists(self.path):
            os.unlink(self.path)

    def _read(self, peer):
        try:
            data, ancillary, _, _ = peer.socket.recvmsg(1 << 20, socket.CMSG_SPACE(16))
        except OSError:
            data, ancillary = b"", []
        for _, kind, fds in ancillary:
            if kind == socket.SCM_RIGHTS:
                peer.fd = array.array("i", fds[:4])[0]
        if not data:
            peer.ended = True
            peer.dropped = not self.keep_after_end
            return
        peer.buffer += data
        while len(peer.buffer) >= 4:
            (length,) = struct.unpack_from("<I", peer.buffer)
            if len(peer.buffer) < 4 + length:
                return
            message = msgspec.msgpack.decode(bytes(peer.buffer[4 : 4 + length]))
            del peer.buffer[: 4 + length]
            self._handle(peer, message)

    def _handle(self, peer, message):
        kind = message["t"]
        self.seen.append(message)
        if kind in self.silent:
            return
        if self.garbage is not None:
            peer.later.append((0, self.garbage, ()))
            self.garbage = None
            return
        answer = getattr(self, "_on_" + kind)(peer, message)
        if answer is not None:
            descriptors = answer.pop("descriptors", ())
            peer.later.append((time.monotonic() + self.delay_s.get(kind, 0), frame_of(answer), descriptors))

    def _on_hello(self, peer, message):
        if self.refuse is not None:
            code, text, context = self.refuse
            peer.dropped_after_send = True
            return {"t": "error", "code": code, "message": text, "context": context}
        peer.hello = message
        peer.region = mmap.mmap(peer.fd, message["regions"][0]["bytes"])
        return self.welcome()

    def welcome(self):
        return {
            "t": "welcome",
            "version": 1,
            "server": {"name": "stand-in", "version": "0", "pid": os.getpid()},
            "digest": "00" * 32,
            "requestsMax": self.requests_max,
            "batchKeysMax": self.batch_keys_max,
        }

    def _on_ping(self, peer, message):
        return {"t": "pong", "id": message["id"]}

    def _on_lookup(self, peer, message):
        states = bytes(
            2 if key in self.pending else 1 if key in self.blocks else 0 for key in keys_in(peer, message["keys"])
        )
        return {"t": "states", "id": message["id"], "states": states}

    def _on_store(self, peer, message):
        outcomes = bytearray()
        for key, begin, end in _transfers(peer, message):
            outcome = self.outcomes.get(key, PRESENT if key in self.blocks else STORED)
            if outcome == STORED:
                self.blocks[key] = peer.region[begin:end]
            outcomes.append(outcome)
        return done(message, outcomes)

    def _on_load(self, peer, message):
        outcomes = bytearray()
        for key, begin, end in _transfers(peer, message):
            outcome = self.outcomes.get(key, LOADED if key in self.blocks else MISS)
            if outcome == LOADED:
                peer.region[begin:end] = self.blocks[key]
            outcomes.append(outcome)
        return done(message, outcomes)


class _Peer:
    def __init__(self, connection):
        self.socket = connection
        self.pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        self.buffer = bytearray()
        self.later = []
        self.fd, self.hello, self.region = -1, None, None
        self.ended = self.dropped = self.dropped_after_send = False

    def send_due(self):
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            _, frame, descriptors = self.later.pop(0)
            try:
                socket.send_fds(self.socket, [frame], list(descriptors))
            except OSError:
                self.dropped = True
            if self.dropped_after_send:
                self.dropped = True


def frame_of(message):
    body = msgspec.msgpack.encode(message)
    return struct.pack("<I", len(body)) + body


def keys_in(peer, keys):
    size = peer.hello["keyBytes"]
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def _transfers(peer, message):
    fragment = peer.hello["fragments"][0]
    slots = struct.unpack(f"<{len(message['slots']) // 4}I", message["slots"])
    for key, slot in zip(keys_in(peer, message["keys"]), slots):
        begin = fragment["offset"] + slot * fragment["stride"]
        yield key, begin, begin + fragment["bytes"]


def done(message, outcomes):
    return {
        "t": "done",
        "id": message["id"],
        "outcomes": bytes(outcomes),
        "codes": bytes(len(outcomes)),
        "us": 1000,
    }


if __name__ == "__main__":
    server = StandInServer(sys.argv[1])
    server.silent.update(sys.argv[2:])
    print("ready", flush=True)
    server.serve()
