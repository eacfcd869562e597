"""The stand-in server in direct mode: it really reads and writes the engine's memory, and holds blocks in an arena that it shares.

Bytes that nobody holds are overwritten at once, so a copy of what was released too early shows. As a program:
`python stand_in_direct.py SOCKET [--die-in-scatter] [--disk FILE] [silent type]…`.
"""

import collections
import ctypes
import itertools
import mmap
import os
import pickle
import signal
import struct
import sys
import time
import uuid

from stand_in_server import FAILED, LOADED, MISS, PRESENT, STORED, StandInServer, done, frame_of, keys_in

BUSY = 8
NO_BLOCK = 2**32 - 1
GARBAGE = b"\xee"
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


class DirectStandIn(StandInServer):
    """
    Attributes:
        holds: (engine, key) -> how often it is held.
        held_ever, released_ever: how many HOLDs were answered LOADED, how many RELEASEs took one back.
        wrong_releases: RELEASEs of what was not held.
        hold_outcomes: by key, (outcome, code) to give instead of the true one.
        stores: False drops what is gathered.
        gathered: how many chunks were read from workers.
        die_in_scatter: it kills itself when the first half of a SCATTER has been copied.
    """

    def __init__(self, path, slots=256, slot_bytes=1 << 20, disk=None, **options):
        super().__init__(path, **options)
        self.slot_bytes = slot_bytes
        self.instance = uuid.uuid4().hex
        self.arena_fd = os.memfd_create("arena")
        os.ftruncate(self.arena_fd, slots * slot_bytes)
        self.arena = mmap.mmap(self.arena_fd, slots * slot_bytes)
        self.free = list(range(slots))
        self.slot_of = {}
        self.holds = collections.Counter()
        self.held_ever = self.released_ever = self.wrong_releases = self.gathered = 0
        self.hold_outcomes, self.stores, self.die_in_scatter = {}, True, False
        self.assemblies = {}
        self.disk = disk
        if disk is not None and os.path.exists(disk):
            with open(disk, "rb") as file:
                self.blocks = pickle.load(file)

    @property
    def is_held(self):
        return {key: count for key, count in self.holds.items() if count}

    def _on_hello(self, peer, message):
        if self.refuse is not None or "direct" not in message:
            return super()._on_hello(peer, message)
        peer.hello = message
        direct = message["direct"]
        peer.engine = direct["engine"]
        welcome = {**self.welcome(), "direct": {"instance": self.instance, "arenaBytes": len(self.arena)}}
        if direct["role"] == "worker":
            welcome["descriptors"] = [self.arena_fd]
        return welcome

    def _workers_are_there(self, peer):
        others = [each.hello["direct"] for each in self._peers.values() if each.hello and not each.dropped]
        workers = [each for each in others if each["role"] == "worker" and each["engine"] == peer.engine]
        return len(workers) >= peer.hello["direct"]["workers"]

    def _on_hold(self, peer, message):
        outcomes, codes, offsets = bytearray(), bytearray(), []
        ready = self._workers_are_there(peer)
        for key in keys_in(peer, message["keys"]):
            outcome, code = self.hold_outcomes.get(key, (LOADED, 0) if key in self.blocks else (MISS, 0))
            if not ready or (outcome == LOADED and key not in self.slot_of and not self.free):
                outcome, code = FAILED, BUSY
            offset = 0
            if outcome == LOADED:
                offset = self._slot(key) * self.slot_bytes
                self.holds[peer.engine, key] += 1
                self.held_ever += 1
            outcomes.append(outcome)
            codes.append(code)
            offsets.append(offset)
        packed = struct.pack(f"<{len(offsets)}Q", *offsets)
        return {"t": "held", "id": message["id"], "outcomes": bytes(outcomes), "codes": bytes(codes), "offsets": packed, "us": 1}

    def _slot(self, key):
        slot = self.slot_of.get(key)
        if slot is None:
            slot = self.slot_of[key] = self.free.pop()
            block = self.blocks[key]
            self.arena[slot * self.slot_bytes : slot * self.slot_bytes + len(block)] = block
        return slot

    def _on_release(self, peer, message):
        for key in keys_in(peer, message["keys"]):
            if not self.holds[peer.engine, key]:
                self.wrong_releases += 1
                continue
            self.holds[peer.engine, key] -= 1
            self.released_ever += 1
            if not any(count for (_, each), count in self.holds.items() if each == key):
                slot = self.slot_of.pop(key)
                self.arena[slot * self.slot_bytes : (slot + 1) * self.slot_bytes] = GARBAGE * self.slot_bytes
                self.free.append(slot)

    def _on_gather(self, peer, message):
        direct, outcomes = peer.hello["direct"], bytearray()
        keys = keys_in(peer, message["keys"])
        assembly = self.assemblies.setdefault((peer.engine, message["ticket"]), {"keys": keys, "parts": set(), "blocks": {}})
        assert assembly["keys"] == keys and direct["stores"]
        for key, group, blocks in _chunks(peer, message):
            if not self.stores:
                outcomes.append(3)
            elif key in self.blocks:
                outcomes.append(PRESENT)
            else:
                block = assembly["blocks"].setdefault(key, bytearray(peer.hello["blockBytes"]))
                for at, address, size in _pieces(direct, group, blocks):
                    block[at : at + size] = _read(peer.pid, address, size)
                self.gathered += 1
                outcomes.append(STORED)
        assembly["parts"].add(direct["part"])
        if self.stores and len(assembly["parts"]) == direct["parts"]:
            self._assembled(peer.engine, message["ticket"])
        return done(message, outcomes)

    def _assembled(self, engine, ticket):
        assembly = self.assemblies.pop((engine, ticket))
        outcomes = bytearray()
        for key in assembly["keys"]:
            outcomes.append(PRESENT if key in self.blocks else STORED)
            self.blocks.setdefault(key, bytes(assembly["blocks"].get(key, b"")))
        self.write_disk()
        for each in self._peers.values():
            if each.hello and each.engine == engine and each.hello["direct"]["role"] == "scheduler":
                stored = {"t": "stored", "ticket": ticket, "outcomes": bytes(outcomes), "codes": bytes(len(outcomes))}
                each.later.append((time.monotonic() + self.delay_s.get("stored", 0), frame_of(stored), ()))

    def write_disk(self):
        if self.disk is not None:
            with open(self.disk, "wb") as file:
                pickle.dump(self.blocks, file)

    def _on_scatter(self, peer, message):
        direct, outcomes = peer.hello["direct"], bytearray()
        chunks = _chunks(peer, message)
        for index, (key, group, blocks) in enumerate(chunks):
            if self.die_in_scatter and index == len(chunks) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            outcome = self.outcomes.get(key, LOADED if self.holds[peer.engine, key] else MISS)
            if outcome == LOADED:
                begin = self.slot_of[key] * self.slot_bytes
                for at, address, size in _pieces(direct, group, blocks):
                    _write(peer.pid, address, self.arena[begin + at : begin + at + size])
            outcomes.append(outcome)
        return done(message, outcomes)


def _chunks(peer, message):
    direct = peer.hello["direct"]
    count = len(message["groups"]) // 4
    groups = struct.unpack(f"<{count}I", message["groups"])
    per_chunk = direct["blocksPerChunk"]
    blocks = struct.unpack(f"<{count * per_chunk}I", message["blocks"])
    rows = [blocks[at : at + per_chunk] for at in range(0, len(blocks), per_chunk)]
    return list(zip(keys_in(peer, message["keys"]), groups, rows, strict=True))


def _pieces(direct, group, blocks):
    """(place in the chunk, address, bytes) of every page that is there."""
    part_at = direct["part"] * direct["partBytes"]
    sizes = [page_bytes * direct["blocksPerChunk"] for _, _, _, page_bytes, _ in direct["tensors"]]
    tensor_at = [0, *itertools.accumulate(sizes)]
    assert tensor_at[-1] <= direct["partBytes"]
    for tensor, used in direct["groups"][group]:
        memory, offset, stride, page_bytes, pages = direct["tensors"][tensor]
        address, size = direct["memory"]["memories"][memory]
        for place, block in enumerate(blocks):
            if block != NO_BLOCK:
                assert block < pages and offset + block * stride + used <= size
                yield part_at + tensor_at[tensor] + place * page_bytes, address + offset + block * stride, used


def _read(pid, address, size):
    if pid == os.getpid():
        return ctypes.string_at(address, size)
    buffer = ctypes.create_string_buffer(size)
    _cross(_libc.process_vm_readv, pid, ctypes.addressof(buffer), address, size)
    return buffer.raw


def _write(pid, address, data):
    if pid == os.getpid():
        ctypes.memmove(address, data, len(data))
        return
    buffer = ctypes.create_string_buffer(data, len(data))
    _cross(_libc.process_vm_writev, pid, ctypes.addressof(buffer), address, len(data))


def _cross(call, pid, here, there, size):
    local, remote = _Iovec(here, size), _Iovec(there, size)
    moved = call(pid, ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote), ctypes.c_ulong(1), ctypes.c_ulong(0))
    assert moved == size, os.strerror(ctypes.get_errno())


if __name__ == "__main__":
    arguments = sys.argv[2:]
    disk = arguments.pop(arguments.index("--disk") + 1) if "--disk" in arguments else None
    server = DirectStandIn(sys.argv[1], disk=disk)
    server.die_in_scatter = "--die-in-scatter" in arguments
    server.silent.update(each for each in arguments if not each.startswith("--"))
    print("ready", flush=True)
    server.serve()
