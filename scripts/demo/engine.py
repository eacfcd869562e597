"""One real vLLM engine of the demo: `engine.py OPTIONS_JSON`, then `run` or `quit` on stdin.

Prints JSON lines on stdout (everything else goes to stderr): {"ready": seconds} once, and after `run` one line a prompt
with the time to the first token, the tokens and how many prompt tokens came from the cache, then {"done": true}.
"""

import glob
import json
import os
import sys
import time

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process: killing it kills the engine
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("PYTHONHASHSEED", "0")

out = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def say(**line):
    out.write(json.dumps(line) + "\n")


def make_model(path, shape):
    """A Llama with random weights: nothing to download, and prefill costs what it costs."""
    if os.path.exists(os.path.join(path, "config.json")):
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    partial = f"{path}.{os.getpid()}"
    LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16).save_pretrained(partial)
    os.rename(partial, path)


def prompt(index, tokens, vocabulary):
    state = 12345 + 7919 * index
    ids = []
    for _ in range(tokens):
        state = (1103515245 * state + 12345) % 2**31
        ids.append(3 + state // 65536 % (vocabulary - 3))
    return ids


class Engine:
    def __init__(self, options):
        from vllm import LLM
        from vllm.config import KVTransferConfig

        engine_id = f"kvferry-demo-{os.getpid()}-{time.time_ns()}"
        extra = {
            "spec_name": "KvferryCpuSpec",
            "spec_module_path": "kvferry_vllm",
            "cpu_bytes_to_use": options["hostBytes"],
            "block_size": options["chunkTokens"],
            "secondary_tiers": [
                {"type": "KvferryTier", "module_path": "kvferry_vllm", "socket": options["socket"]}
            ],
        }
        self.llm = LLM(
            model=options["model"],
            skip_tokenizer_init=True,
            enforce_eager=True,
            # With random weights two tokens are often nearly equal, and a prompt computed in other pieces rounds otherwise: in
            # bfloat16 that alone changes the output now and then. In float32 only wrong KV would.
            dtype="float32",
            max_model_len=options["tokensMax"],
            block_size=32,
            enable_prefix_caching=True,
            disable_log_stats=False,
            kv_transfer_config=KVTransferConfig(
                kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=extra, engine_id=engine_id
            ),
        )
        # Everybody has mapped the offload region. Without its name it goes with the processes, however they end.
        for path in glob.glob(f"/dev/shm/vllm_offload_{engine_id}*"):
            os.unlink(path)
        self.engine = self.llm.llm_engine
        self.count = 0

    def run(self, ids, tokens):
        from vllm import SamplingParams

        sampling = SamplingParams(max_tokens=tokens, temperature=0, detokenize=False, ignore_eos=True)
        self.count += 1
        started = time.perf_counter()
        self.engine.add_request(str(self.count), {"prompt_token_ids": ids}, sampling)
        first, last = None, None
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.outputs[0].token_ids and first is None:
                    first = time.perf_counter() - started
                last = output
        return first, list(last.outputs[0].token_ids), last.num_cached_tokens

    def settle(self, seconds=30):
        """Steps until everything that is on its way to storage has arrived."""
        core = self.engine.engine_core.engine_core
        ends = time.monotonic() + seconds
        while core.scheduler.has_requests() and time.monotonic() < ends:
            core.step_fn()
            time.sleep(0.001)


def main():
    options = json.loads(sys.argv[1])
    started = time.perf_counter()
    make_model(options["model"], options["shape"])
    engine = Engine(options)
    engine.run(prompt(999, 40, options["shape"]["vocab_size"]), 2)  # warms up; too short to be cached
    say(ready=round(time.perf_counter() - started, 1))
    for line in sys.stdin:
        if line.strip() == "quit":
            break
        for index, length in enumerate(options["prompts"]):
            first, tokens, cached = engine.run(
                prompt(index, length, options["shape"]["vocab_size"]), options["outputTokens"]
            )
            say(prompt=index, length=length, ttft=first, tokens=tokens, cached=cached)
        engine.settle()
        say(done=True)


if __name__ == "__main__":
    main()
