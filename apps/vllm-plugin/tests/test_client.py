"""The protocol client alone: frames, windows, endings."""

import os
import time

import pytest
from helpers import wait_for

from kvferry_vllm import wire
from kvferry_vllm.client import Client, State
from kvferry_vllm.listener import Listener


class Recorder(Listener):
    def __init__(self):
        self.ready, self.answers, self.removed, self.lost = [], [], [], []

    def on_ready(self, welcome, descriptors):
        self.ready.append(welcome)

    def on_answer(self, request, message):
        self.answers.append((request, message))

    def on_removed(self, keys, reason):
        self.removed.append((keys, reason))

    def on_lost(self, requests, reason):
        self.lost.append(([each.kind for each in requests], reason))


HELLO = {
    "t": "hello", "version": 1, "client": {"name": "test", "version": "0", "instance": "i"}, "namespace": {},
    "keyBytes": 8, "blockBytes": 4096, "regions": [{"bytes": 4096 * 16}],
    "fragments": [{"region": 0, "offset": 0, "stride": 4096, "bytes": 4096}], "slots": 16, "vllmFs": None, "events": True,
}  # fmt: skip


@pytest.fixture
def connect(server):
    fd = os.memfd_create("region")
    os.ftruncate(fd, 4096 * 16)
    made = []

    def make(**options):
        recorder = Recorder()
        client = Client(server.path, recorder, **options)
        client.start(dict(HELLO), [fd])
        made.append(client)
        wait_for(lambda: (client.poll(0.01), client.state is State.READY)[1])
        return client, recorder

    yield make
    for client in made:
        client.close(1.0)
    os.close(fd)


def test_hello_carries_the_region(connect, server):
    client, recorder = connect()
    assert client.requests_max == 64 and recorder.ready[0].server.name == "stand-in"
    (peer,) = server._peers.values()
    assert os.fstat(peer.fd).st_size == 4096 * 16


def test_answers_find_their_requests_in_any_order(connect, server):
    client, recorder = connect()
    server.delay_s["lookup"] = 0.03
    first = client.submit("lookup", "a", 1, keys=b"k" * 8)
    second = client.submit("store", "b", 1, keys=b"k" * 8, slots=bytes(4))
    wait_for(lambda: (client.poll(0.01), len(recorder.answers) == 2)[1])
    assert {request.id: request.owner for request, _ in recorder.answers} == {first: "a", second: "b"}
    assert client.unanswered == 0


def test_stores_leave_room_for_loads_and_lookups(connect, server):
    server.requests_max = 8
    client, _ = connect()
    server.silent.update(("store", "load", "lookup"))
    stores = [client.submit("store", None, 1, keys=b"k" * 8, slots=bytes(4)) for _ in range(8)]
    assert stores.count(None) == 2
    assert client.submit("load", None, 1, keys=b"k" * 8, slots=bytes(4)) is not None
    assert client.submit("lookup", None, 1, keys=b"k" * 8) is None  # one is kept for the ping


def test_a_full_socket_never_blocks(connect, server):
    server.requests_max = 100_000
    client, _ = connect()
    server.reading = False
    keys, slots = bytes(8 * 4096), bytes(4 * 4096)
    refused = 0
    for _ in range(400):
        refused += client.submit("load", None, 4096, keys=keys, slots=slots) is None
        client.poll()
    assert refused > 100  # and we are here: whatever waits for this server waits for ever
    server.reading = True
    wait_for(lambda: (client.poll(0.01), client.unanswered == 0)[1], 10)


def test_a_large_answer_in_small_pieces_is_put_together(connect):
    client, recorder = connect()
    client.submit("lookup", None, 60_000, keys=bytes(8 * 60_000))
    wait_for(lambda: (client.poll(0.01), recorder.answers)[1])
    assert len(recorder.answers[0][1].states) == 60_000


def test_an_answer_of_the_wrong_length_ends_the_connection(connect, server):
    client, recorder = connect()
    server.silent.add("lookup")
    request = client.submit("lookup", None, 1, keys=b"k" * 8)
    server.push({"t": "states", "id": request, "states": b"\0\0"})
    wait_for(lambda: (client.poll(0.01), recorder.lost)[1])
    assert recorder.lost[0][0] == ["lookup"]


def test_removed_arrives_unasked(connect, server):
    client, recorder = connect()
    server.push({"t": "removed", "keys": b"k" * 16, "reason": "evicted", "news": "ignored"})
    wait_for(lambda: (client.poll(0.01), recorder.removed)[1])
    assert recorder.removed == [(b"k" * 16, "evicted")]


def test_close_waits_for_the_servers_end(connect, server):
    client, _ = connect()
    assert client.close(2.0) and client.state is State.CLOSED
    stuck, _ = connect()
    server.keep_after_end = True
    assert not stuck.close(0.1)


def test_it_reconnects_after_a_loss_but_not_in_a_tight_loop(connect, server):
    client, recorder = connect()
    for _ in range(3):
        server.drop_connections()
        lost = len(recorder.lost)
        wait_for(lambda: (client.poll(0.01), len(recorder.lost) > lost)[1])
        wait_for(lambda: (client.poll(0.01), client.state is State.READY)[1])
    assert server.connections == 4 and len(recorder.ready) == 4


def test_frames_have_a_bound():
    with pytest.raises(ValueError, match="at most"):
        wire.encode_frame(wire.Lookup(1, bytes(wire.FRAME_BYTES_MAX)))
    assert wire.frame_length(wire.encode_frame(wire.Ping(3))) == len(wire.encode_frame(wire.Ping(3))) - 4
