"""The pieces of direct mode alone: options, layouts, devices. Nothing here has seen a GPU: the driver is a fake."""

import ctypes
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from direct_helpers import PAGE, PAGES, PER_CHUNK, caches_of
from helpers import offloading_config
from vllm.v1.kv_offload.base import CanonicalKVCacheRef, CanonicalKVCaches, CanonicalKVCacheTensor, GPULoadStoreSpec
from vllm.v1.kv_offload.factory import OffloadingSpecFactory

from kvferry_vllm.direct import cuda, devices
from kvferry_vllm.direct.layout import chunks_of, layout_of, transfer_bytes
from kvferry_vllm.direct.options import parse_options
from kvferry_vllm.wire import NO_BLOCK

VLLMS_OWN = {
    "spec_name": "KvferrySpec", "spec_module_path": "kvferry_vllm", "block_size": 64, "offload_prompt_only": False,
    "self_describing_kv_events": True, "cpu_bytes_to_use": 1 << 30, "canonical_layout": False, "of_another_version": 1,
}  # fmt: skip


def test_vllms_own_options_are_left_alone():
    assert parse_options({**VLLMS_OWN, "kvferry": {"socket": "/tmp/s", "tenant": "t"}}).tenant == "t"
    assert parse_options(VLLMS_OWN).tenant == ""


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"socket": "/tmp/s"}, '"kvferry": {"socket"'),
        ({"kvferry": {"sockett": "/tmp/s"}}, "did you mean 'socket'"),
        ({"kvferry": {"lookup_budget_ms": -1}}, "lookup_budget_ms"),
        ({"kvferry": "/tmp/s"}, "'kvferry' is '/tmp/s'; write a map"),
        ({"canonical_layout": True}, "'canonical_layout'"),
        ({"secondary_tiers": [{"type": "kvferry"}]}, "'secondary_tiers'"),
    ],
)
def test_a_wrong_option_is_named_with_its_fix(options, names):
    with pytest.raises(ValueError, match="kvferry") as raised:
        parse_options({**VLLMS_OWN, **options})
    assert names in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "says"), [({"parallel_config": SimpleNamespace(nnodes_within_dp=2)}, "2 nodes"), ({}, None)]
)
def test_workers_on_other_nodes_are_refused_with_the_advice(monkeypatch, settings, says):
    from kvferry_vllm.direct import spec

    monkeypatch.setattr(spec, "find_vllm_config", lambda: SimpleNamespace(**settings))
    if says is None:
        spec.KvferrySpec(offloading_config())
        return
    with pytest.raises(ValueError, match=says) as raised:
        spec.KvferrySpec(offloading_config())
    assert "TieringOffloadingSpec" in str(raised.value)


def test_the_factory_finds_the_spec_by_module_and_by_registration(monkeypatch):
    from kvferry_vllm import KvferrySpec
    from kvferry_vllm.registration import register

    monkeypatch.setattr(OffloadingSpecFactory, "_registry", dict(OffloadingSpecFactory._registry))
    by_module = {"spec_name": "KvferrySpec", "spec_module_path": "kvferry_vllm"}
    assert OffloadingSpecFactory.get_spec_cls(by_module) is KvferrySpec
    register()
    register()
    assert OffloadingSpecFactory.get_spec_cls({"spec_name": "KvferrySpec"}) is KvferrySpec


def test_blocks_and_namespace_are_those_of_tier_mode(direct, direct_server, monkeypatch):
    """A fleet changes between the modes with a warm cache."""
    from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec

    from kvferry_vllm.namespace import namespace_fields

    engine = direct(direct_server.path, workers=2)
    tiering = TieringOffloadingSpec(replace(engine.specs[0].config, extra_config={"cpu_bytes_to_use": 1 << 24, "secondary_tiers": []}))
    scheduler = next(each for each in direct_server.seen if each["t"] == "hello" and each["direct"]["role"] == "scheduler")
    assert scheduler["blockBytes"] == -(-tiering.kv_bytes_per_chunk // 4096) * 4096
    assert scheduler["direct"]["partBytes"] == tiering.cpu_page_size_per_worker
    import vllm

    assert scheduler["namespace"] == namespace_fields(engine.specs[0].config, None, vllm.__version__, "", "ab" * 32)


def test_a_worker_says_what_the_first_rank_says():
    """The namespace has the rank in it where the arrangement matters, and all connections of an engine must agree."""
    from kvferry_vllm.direct.spec import KvferrySpec, _AsFirstRank
    from kvferry_vllm.scheduler_side import identity

    config = offloading_config(extra_config={"kvferry": {"weights": "ab" * 32}})
    ranks = [replace(config, parallel=replace(config.parallel, rank=rank, world_size=2, tp_size=2)) for rank in (0, 1)]
    first, second = (KvferrySpec(each) for each in ranks)
    assert identity(_AsFirstRank(second), second._options, None) == identity(first, first._options, None)


def test_a_shared_storage_is_one_memory():
    layout = layout_of(caches_of(0), PER_CHUNK)
    assert len(layout.storages) == 2 and layout.part_bytes == 3 * PER_CHUNK * PAGE
    assert layout.fields["tensors"] == [[0, 0, 3 * PAGE, PAGE, PAGES], [0, PAGE, 3 * PAGE, PAGE, PAGES], [1, 0, PAGE, PAGE, PAGES]]
    assert layout.fields["groups"] == [[(0, PAGE), (1, PAGE)], [(0, PAGE - 64), (2, PAGE)]]


def test_layers_that_share_a_tensor_are_copied_once():
    tensor = torch.zeros((4, PAGE), dtype=torch.int8)
    caches = CanonicalKVCaches([CanonicalKVCacheTensor(tensor, PAGE)], [[CanonicalKVCacheRef(0, PAGE)] * 3])
    assert layout_of(caches, 1).groups == [[(0, PAGE)]]


def test_a_tensor_of_another_form_is_refused():
    caches = CanonicalKVCaches([CanonicalKVCacheTensor(torch.zeros((4, PAGE), dtype=torch.int16), PAGE)], [[]])
    with pytest.raises(ValueError, match="int16"):
        layout_of(caches, 1)


def test_blocks_are_spread_over_chunks():
    chunks = chunks_of(GPULoadStoreSpec([7, 8, 9, 20], [3, 1], [3, 4]), 2, 3)
    no = NO_BLOCK
    assert chunks.groups.tolist() == [0, 0, 1] and chunks.blocks.tolist() == [[no, 7], [8, 9], [20, no]]
    assert not chunks.are_complete
    assert transfer_bytes(layout_of(caches_of(0), 2), chunks) == 3 * 2 * PAGE + 2 * PAGE - 64


@pytest.mark.parametrize(("sizes", "indices", "count"), [([4], [0], 3), ([4], [0], 1), ([4], [1], 2)])
def test_blocks_that_do_not_fill_the_chunks_are_refused(sizes, indices, count):
    with pytest.raises(ValueError, match="blocks do not"):
        chunks_of(GPULoadStoreSpec([1, 2, 3, 4], sizes, indices), 2, count)


def test_the_server_is_named_as_the_one_that_may_attach(monkeypatch):
    calls = []
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(prctl=lambda *a: calls.append(a)))
    device = devices.ProcessDevice()
    device.before_hello(4242)
    device.before_hello(None)  # of another container: nobody that we could name
    ((option, pid, *rest),) = calls
    assert option == 0x59616D61 and pid.value == 4242 and rest == [0, 0, 0]


def test_the_real_prctl_does_not_fail():
    devices.ProcessDevice().before_hello(1)


class FakeDriver:
    """Stands for libcuda: one allocation at 0x7f0000000000, on GPU 1. Not a GPU."""

    BASE, BYTES, UUID = 0x7F00_0000_0000, 1 << 20, bytes(range(16))

    def __init__(self, fails=None):
        self.fails = fails

    def __getattr__(self, name):
        return lambda *arguments: 801 if name == self.fails else getattr(self, "_" + name)(*arguments)

    def _cuPointerGetAttribute(self, out, attribute, pointer):
        assert attribute == 9 and self.BASE <= pointer.value < self.BASE + self.BYTES
        out._obj.value = 1
        return 0

    def _cuDeviceGet(self, out, ordinal):
        assert ordinal.value == 1
        out._obj.value = 17
        return 0

    def _cuDeviceGetUuid_v2(self, out, device):
        assert device.value == 17
        ctypes.memmove(out._obj, self.UUID, 16)
        return 0

    def _cuMemGetAddressRange_v2(self, base, size, pointer):
        base._obj.value, size._obj.value = self.BASE, self.BYTES
        return 0

    def _cuIpcGetMemHandle(self, out, base):
        assert base.value == self.BASE
        ctypes.memmove(ctypes.addressof(out._obj), b"h" * 64, 64)
        return 0


def storage(at, size):
    return SimpleNamespace(data_ptr=lambda: FakeDriver.BASE + at, nbytes=lambda: size)


def test_cuda_memory_is_a_handle_of_its_allocation_and_the_place_in_it():
    memory = cuda.CudaDevice(None, FakeDriver()).memory([storage(0, 4096), storage(8192, 512)])
    assert memory == {"kind": "cuda", "uuid": FakeDriver.UUID, "memories": [[b"h" * 64, 0, 4096], [b"h" * 64, 8192, 512]]}


def test_cuda_memory_that_cannot_be_shared_is_refused_with_the_advice():
    with pytest.raises(ValueError, match="cuIpcGetMemHandle gave CUDA error 801") as raised:
        cuda.CudaDevice(None, FakeDriver("cuIpcGetMemHandle")).memory([storage(0, 4096)])
    assert "TieringOffloadingSpec" in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "environment", "says"),
    [
        (False, {}, None),
        (True, {}, "sleep mode"),
        (False, {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,expandable_segments:True"}, "PYTORCH_CUDA_ALLOC_CONF"),
        (False, {"PYTORCH_ALLOC_CONF": "expandable_segments: true"}, "PYTORCH_ALLOC_CONF"),
        (False, {"PYTORCH_ALLOC_CONF": "expandable_segments:False"}, None),
    ],
)
def test_settings_that_make_cuda_memory_unshareable_are_named(settings, environment, says):
    reason = cuda.unshareable_reason(SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=settings)), environment)
    assert reason is None if says is None else says in reason


class FakeEvent:
    """Stands for torch.cuda.Event: done when the test says so."""

    def __init__(self):
        self.is_done = False

    def query(self):
        return self.is_done


def test_nothing_is_sent_before_the_gpu_has_come_to_it(direct, direct_server):
    """The order of a CUDA engine, with fake events: of stores, and of loads into blocks that earlier kernels still read."""
    from helpers import keys_of, wait_for

    engine = direct(direct_server.path)
    marks = []
    engine.workers[0]._device.mark = lambda: marks.append(FakeEvent()) or marks[-1]
    keys = keys_of(2)
    job = engine.begin_store(keys, engine.blocks([0, 1, 2, 3]))
    request = engine.request(keys)
    for _ in range(10):
        assert not engine.workers[0].get_finished()
    assert not direct_server.count("gather")
    marks[0].is_done = True
    engine.workers[0].wait({job})
    wait_for(lambda: (engine.step(), engine.settle(keys, request) != [])[1])
    request = engine.request(keys)
    assert len(engine.settle(keys, request)) == 2
    load = engine.begin_load(keys, engine.blocks([10, 11, 12, 13]), request)
    for _ in range(10):
        assert not engine.workers[0].get_finished()
    assert not direct_server.count("scatter")
    marks[1].is_done = True
    engine.workers[0].wait({load})
    assert np.array_equal(engine.pages(0, [10])[0], engine.pages(0, [0])[0])


def test_a_kind_of_device_that_the_server_does_not_reach_is_refused():
    with pytest.raises(ValueError, match="'xpu'"):
        devices.device_of("xpu", None)


def test_what_was_held_twice_is_given_back_twice():
    """The server did not answer, nobody waited any more, another request asked again, and then both answers came."""
    from kvferry_vllm import wire
    from kvferry_vllm.direct.holds import Holds

    questions, released = iter((1, 2)), []
    holds = Holds(lambda keys: next(questions), lambda keys: released.extend(keys) or True, lambda *_: None, 1.0)
    holds.ready("i", 8)
    holds.want("first", [b"k"])
    holds.send()
    holds.give_up()
    holds.want("second", [b"k"])
    holds.send()
    for question in (1, 2):
        holds.answered(question, wire.Held(question, bytes([wire.LOADED]), b"\0", bytes(8), 0))
    holds.flush()
    assert released == [b"k"] and holds.of("second").held and not holds.of("first").held
    holds.finish("first")
    holds.finish("second")
    holds.flush()
    assert released == [b"k", b"k"] and holds.held_count == holds.released_count == 2
