"""A real vLLM engine that a test drives: `engine_process.py OPTIONS_JSON`, JSON commands on stdin, JSON answers on stdout.

Commands: {"do": "run", "prompts": [[index, length], …], "tokens": how many to make} → {"results": [{tokens, cached, seconds}]}; "reset" empties the engine's own caches, so
that only the tier is left; "settle" steps until nothing is on its way; "calls" tells how long the tier's calls have taken;
"stop_before_load" with a pid stops that process just before the next load is submitted; "kill_before_load" ends it; "quit".

OPTIONS: `model`, `kind`, `tp`, and either `tier`, one of `secondary_tiers`, or `direct`, the map `kvferry` of direct mode. What is called "tier" below is
then direct mode's manager.
"""

import glob
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PYTHONHASHSEED", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

out = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from controlled import ControlledCalls  # noqa: E402
from held import CALL_S_MAX, TIER_METHODS, HeldTimer  # noqa: E402  it imports vLLM, which reads the environment

VOCABULARY = 1024
SETTLE_S = 30
MANAGER_METHODS = (
    "lookup", "prepare_load", "complete_load", "prepare_store", "complete_store", "has_pending_work", "take_events",
    "on_new_request", "on_request_finished", "on_schedule_end", "get_stats",
)  # fmt: skip


def tell_vllm_of_memory():
    """vLLM wants to know the memory's nodes, of which a kernel without cpusets, such as User-Mode Linux, says nothing: there is one."""
    if "Mems_allowed_list" not in Path("/proc/self/status").read_text():
        from vllm.utils import cpu_resource_utils

        cpu_resource_utils.get_memory_affinity = lambda pid=0: [0]


def make_model(path, kind):
    if os.path.exists(os.path.join(path, "config.json")):
        return
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    common = dict(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=4,
        head_dim=32, max_position_embeddings=4096,
    )  # fmt: skip
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=4, **common))
    else:  # sliding windows and full attention: two kinds of groups
        layers = ["sliding_attention", "sliding_attention", "full_attention"] * 2
        config = Gemma3TextConfig(num_hidden_layers=6, layer_types=layers, sliding_window=128, **common)
        model = Gemma3ForCausalLM(config)
    partial = f"{path}.{os.getpid()}"
    model.to(torch.float32).save_pretrained(partial)
    try:
        os.rename(partial, path)
    except OSError:  # an engine that started beside this one was first
        shutil.rmtree(partial)
        assert os.path.exists(os.path.join(path, "config.json")), path


def prompt(index, length):
    state, ids = 12345 + 7919 * index, []
    for _ in range(length):
        state = (1103515245 * state + 12345) % 2**31
        ids.append(3 + state // 65536 % (VOCABULARY - 3))
    return ids


class Calls:
    """How long the tier's calls held the scheduler."""

    def __init__(self, tier, methods):
        self._timer = HeldTimer()
        self.slow, self.slowest, self.count = [], 0.0, 0
        for name in methods:
            setattr(tier, name, self._timed(name, getattr(tier, name)))

    def _timed(self, name, method):
        def timed(*arguments, **named):
            result, held = self._timer.run(method, *arguments, **named)
            if held.seconds > CALL_S_MAX:
                self.slow.append({"method": name, **asdict(held)})
            self.slowest = max(self.slowest, held.seconds)
            self.count += 1
            return result

        return timed

    def take(self):
        taken = {"slow": self.slow, "slowest": self.slowest, "count": self.count}
        self.slow, self.slowest, self.count = [], 0.0, 0
        return taken


class Engine:
    def __init__(self, options):
        from vllm import LLM
        from vllm.config import KVTransferConfig

        engine_id = f"kvferry-engine-{os.getpid()}-{time.time_ns()}"
        self.is_direct = "direct" in options
        extra = {"spec_module_path": "kvferry_vllm", "block_size": 64}
        if self.is_direct:
            extra |= {"spec_name": "KvferrySpec", "kvferry": options["direct"]}
        else:
            cpu_bytes = options.get("cpu_bytes", 256 << 20)
            extra |= {"spec_name": "KvferryCpuSpec", "cpu_bytes_to_use": cpu_bytes, "secondary_tiers": [options["tier"]]}
        self.llm = LLM(
            model=options["model"], skip_tokenizer_init=True, enforce_eager=True, dtype="float32", max_model_len=2048,
            enable_prefix_caching=True, block_size=32, disable_log_stats=False, tensor_parallel_size=options.get("tp", 1),
            kv_transfer_config=KVTransferConfig(
                kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=extra,
                engine_id=engine_id,
            ),
        )  # fmt: skip
        for path in glob.glob(f"/dev/shm/vllm_offload_{engine_id}*"):
            os.unlink(path)
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.connector = self.core.scheduler.connector.connector_scheduler
        if self.is_direct:
            self.tier = self.connector.manager
        else:
            (self.tier,) = self.connector.manager.secondary_tiers
        self.contexts = []
        self._record_requests()
        methods = MANAGER_METHODS if self.is_direct else TIER_METHODS
        self.calls = (ControlledCalls if options["with_control"] else Calls)(self.tier, methods)

    def _record_requests(self):
        on_new_request = self.tier.on_new_request

        def recorded(context):
            self.contexts.append(context)
            return on_new_request(context)

        self.tier.on_new_request = recorded

    def keys(self):
        """Of every request so far, its keys in prefix order (since vLLM 0.31)."""
        return [[bytes(key).hex() for key in context._offload_key_positions] for context in self.contexts]

    def run(self, prompts, count=8):
        from vllm import SamplingParams

        sampling = SamplingParams(max_tokens=count, temperature=0, detokenize=False, ignore_eos=True)
        results = []
        for index, length in prompts:
            started = time.perf_counter()
            (output,) = self.llm.generate([{"prompt_token_ids": prompt(index, length)}], sampling, use_tqdm=False)
            results.append(
                {
                    "tokens": list(output.outputs[0].token_ids),
                    "cached": output.num_cached_tokens,
                    "seconds": time.perf_counter() - started,
                }
            )
        return {"results": results}

    def settle(self):
        ends = time.monotonic() + SETTLE_S
        while self.core.scheduler.has_requests() and time.monotonic() < ends:
            self.llm.llm_engine.step()  # and not the core alone, whose metrics would be lost
            time.sleep(0.001)
        return {"settled": not self.core.scheduler.has_requests()}

    def reset(self):
        self.settle()
        return {"reset": bool(self.llm.reset_prefix_cache(reset_connector=True))}

    def worker(self):
        """Direct mode's worker, where it is in this process."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group().connector_worker.worker

    def signal_before_load(self, pid, number):
        loader = self.worker() if self.is_direct else self.tier
        submit_load = loader.submit_load

        def signalling(*arguments):
            loader.submit_load = submit_load
            os.kill(pid, number)
            return submit_load(*arguments)

        loader.submit_load = signalling
        return {}

    def connected(self, seconds):
        self.settle()
        ends = time.monotonic() + seconds
        clients = [self.tier._client, *([self.worker()._client] if self.is_direct else [])]
        while not all(each.usable for each in clients) and time.monotonic() < ends:
            for each in clients:
                each.poll()
            time.sleep(0.01)
        return {"connected": all(each.usable for each in clients)}

    def answer(self, command):
        do = command["do"]
        if do == "run":
            return self.run(command["prompts"], command.get("tokens", 8))
        if do == "settle":
            return self.settle()
        if do == "reset":
            return self.reset()
        if do == "calls":
            return self.calls.take()
        if do == "namespace":
            return self.tier._hello["namespace"]
        if do == "metrics":
            self.run([[998, 40]])  # a step brings them
            named = [each for each in self.llm.get_metrics() if "kvferry" in each.name]
            return {
                f"{each.name} {each.labels.get('outcome', '')}".strip(): getattr(each, "value", None) for each in named
            }
        if do == "keys":
            return {"keys": self.keys()}
        if do == "groups":
            return {"groups": len(self.connector.config.kv_group_configs)}
        if do == "connected":
            return self.connected(command.get("seconds", 10))
        if do == "stop_before_load":
            return self.signal_before_load(command["pid"], signal.SIGSTOP)
        if do == "kill_before_load":
            return self.signal_before_load(command["pid"], signal.SIGKILL)
        if do == "worker":
            worker = self.worker()
            return {"dropped": worker.dropped_blocks, "self_copied": worker.self_copied_blocks}
        raise ValueError(do)


def main():
    options = json.loads(sys.argv[1])
    make_model(options["model"], options["kind"])
    tell_vllm_of_memory()
    engine = Engine(options)
    engine.run([[999, 40]])
    engine.calls.take()
    import vllm

    out.write(json.dumps({"ready": vllm.__version__}) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        out.write(json.dumps(engine.answer(command)) + "\n")


if __name__ == "__main__":
    main()
