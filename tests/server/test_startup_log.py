"""A server's log is explained in one line for the operator."""

import pytest

from server.launch.startup_log import StartupPhases, explain
from tests import ROOT

LOGS = ROOT / "tests" / "logs"
# Most logs were recorded from vLLM 0.32.0 on a CPU, with shortened tracebacks. Those that need a GPU or the Hub were written from bug
# reports and the source code.
EXPECTED = {
    "out-of-memory": ("out_of_memory", "270.00 MiB"),
    "memory-held": ("out_of_memory", "19.77 of 139.8 GiB"),
    "kv-too-small": ("kv_too_small", "max-model-len 9000000 needs 17.17 GiB, 1.0 GiB is left (fits: 524160)"),
    "unknown-flag": ("unknown_flag", "--no-such-flag"),
    "speculation-no-json": ("bad_speculation", "{bad"),
    "speculation-bounds": ("bad_speculation", "prompt_lookup_min=5 must be <= prompt_lookup_max=2"),
    "speculation-method": ("bad_speculation", "'ngram', 'medusa'"),
    "too-few-gpus": ("too_few_gpus", "needs 4 GPUs, 2 are visible"),
    "heads": ("heads", "3 does not divide the model's 4 attention heads"),
    "no-folder": ("no_model", "./no-such-model"),
    "no-repository": ("no_model", "no-such-org/no-such-model on"),
    "offline": ("no_model", "HF_HUB_OFFLINE"),
    "hub-unreachable": ("hub_unreachable", "https://huggingface.co"),
    "hub-gated": ("hub_refuses", "meta-llama/Llama-3.1-8B"),
    "hub-401": ("hub_refuses", "HF_TOKEN"),
    "port": ("port_taken", "--port"),
    "engine-died": ("engine_died", "NotImplementedError: Synthetic acceptance"),
}


def test_every_log_is_expected() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == EXPECTED.keys()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_log_becomes_one_line(name: str) -> None:
    """The line names the root cause, not a consequence, and contains what the operator needs to know."""
    kind, needle = EXPECTED[name]
    found = explain((LOGS / f"{name}.log").read_text())
    assert found is not None
    assert found[0] == kind
    assert needle in found[1]
    assert "\n" not in found[1]


PREFIXED = "(APIServer pid=7) ERROR 11-22 03:07:19 [core.py:1510] "


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_prefixes_before_every_line_change_nothing(name: str) -> None:
    """Since 0.26, vLLM writes process, level and location before each line of a traceback, in color on a terminal."""
    lines = (LOGS / f"{name}.log").read_text().splitlines()
    expected = explain("\n".join(lines))
    assert explain("\n".join(f"\x1b[0;36m(EngineCore_DP0 pid=9)\x1b[0;0m {line}" for line in lines)) == expected
    assert explain("\n".join(PREFIXED + line if not line.startswith("(") else line for line in lines)) == expected


OTHER_VERSIONS = {  # messages of other versions for the same causes
    "The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV cache (18160).": "kv_too_small",
    "ValueError: To serve at least one request with the models's max seq len (20480), (3.75 GiB KV cache is needed, which is "
    "larger than the available KV cache memory (1.10 GiB). Try increasing `gpu_memory_utilization`": "kv_too_small",
    "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB.": "out_of_memory",
    "RuntimeError: CUDA error: out of memory": "out_of_memory",
    "TypeError: SpeculativeConfig.__init__() got an unexpected keyword argument 'tokens'": "bad_speculation",
    "ValueError: num_speculative_tokens must be provided with speculative model unless the draft model config": "bad_speculation",
    "ValueError: Tensor parallel size (8) cannot be larger than the number of available GPUs (4).": "too_few_gpus",
    "RuntimeError: CUDA error: invalid device ordinal": "too_few_gpus",
    "ValueError: The number of required GPUs exceeds the total number of available GPUs in the placement group.": "too_few_gpus",
    "OSError: /models/x does not appear to have a file named config.json.": "no_model",
    "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use": "port_taken",
    "OSError: [Errno 28] No space left on device": "disk_full",
    "server: unknown model 'gpt': choose from …": "refused",  # from the emulator
}


@pytest.mark.parametrize("log", OTHER_VERSIONS)
def test_messages_of_other_versions(log: str) -> None:
    found = explain(f"INFO starting\n{log}\n")
    assert found is not None
    assert found[0] == OTHER_VERSIONS[log]


def test_a_healthy_log_has_no_cause() -> None:
    """Warnings of a healthy server are not explained as a failure."""
    log = (
        "WARNING [system_utils.py:255] failed to increase: this can cause errors like `OSError: [Errno 24] Too many open files`\n"
        "INFO [loggers.py:257] Engine 000: Avg prompt throughput: 0.0 tokens/s\n"
        "INFO: Application startup complete.\n"
    )
    assert explain(log) is None


WORKER = "(Worker_TP0 pid=2) INFO 11-29 09:19:14 "
LOADED = ["loading weights: 50 %", "loading weights: 100 %"]
# For each release and model runner, the lines of its source code, with the prefixes of a log; the lines of 0.32 are those of a run on H200s.
# What a message says about sizes and times was written for the test.
PHASES_OF = {
    "0.26, V2 runner": (
        (
            "[model_runner.py:284] Loading model from scratch...\n"
            "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.09s/it]\n"
            "Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:02<00:00,  1.02s/it]\n"
            f"{WORKER}[model_runner.py:306] Model loading took 14.25 GiB and 3.271400 seconds\n"
            f"{WORKER}[backends.py:1155] Dynamo bytecode transform time: 4.62 s\n"
            f"{WORKER}[monitor.py:53] torch.compile took 21.40 s in total\n"
        ),
        ["loading the model", *LOADED, "weights loaded: 14.25 GiB in 3.27 s", "compiling", "compiled in 21.40 s"],
    ),
    "0.32, V1 runner": (
        (
            f"{WORKER}[gpu_model_runner.py:5039] Starting to load model models/7b...\n"
            "Multi-thread loading shards:  50% Completed | 1/2 [00:01<00:01,  1.09s/it]\n"
            "Multi-thread loading shards: 100% Completed | 2/2 [00:02<00:00,  1.02s/it]\n"
            f"{WORKER}[gpu_model_runner.py:5149] Model loading took 14.32 GiB memory and 2.082107 seconds\n"
            f"{WORKER}[monitor.py:40] [backbone] Starting torch.compile\n"
            f"{WORKER}[backends.py:1166] [backbone] Dynamo bytecode transform time: 8.11 s\n"
            f"{WORKER}[backends.py:398] [backbone] Compiling a graph for compile range (1, 8192) takes 9.06 s\n"
            f"{WORKER}[monitor.py:62] [backbone] torch.compile took 22.77 s in total\n"
        ),
        ["loading models/7b", *LOADED, "weights loaded: 14.32 GiB in 2.08 s", "compiling", "compiled in 22.77 s"],
    ),
    "0.32, two workers": (
        (
            f"{WORKER}[model_runner.py:392] Loading model from scratch...\n"
            f"{WORKER}[model_runner.py:424] Model loading took 13.97 GiB memory and 3.832680 seconds\n"
            "(Worker_TP1 pid=3) INFO [model_runner.py:424] Model loading took 13.97 GiB memory and 3.929557 seconds\n"
            f"{WORKER}[monitor.py:40] [backbone] Starting torch.compile\n"
            f"{WORKER}[monitor.py:62] [backbone] torch.compile took 41.70 s in total\n"
            "(Worker_TP1 pid=3) INFO [monitor.py:62] [backbone] torch.compile took 43.05 s in total\n"
        ),
        ["loading the model", "weights loaded: 13.97 GiB in 3.83 s", "compiling", "compiled in 41.70 s"],
    ),
    "0.33, compiled before": (
        (
            f"{WORKER}[model_runner.py:399] Loading model from scratch...\n"
            "Loading safetensors using Runai Model Streamer:  50% Completed | 1/2 [00:01<00:01,  1.09s/it]\n"
            "Loading safetensors using Runai Model Streamer: 100% Completed | 2/2 [00:02<00:00,  1.02s/it]\n"
            f"{WORKER}[model_runner.py:428] Model loading took 2.98 GiB memory and 1.106000 seconds\n"
            f"{WORKER}[decorators.py:327] [backbone] Directly load AOT compilation from path /cache/vllm/model\n"
            f"{WORKER}[monitor.py:62] [backbone] torch.compile took 0.29 s in total\n"
        ),
        [
            "loading the model",
            *LOADED,
            "weights loaded: 2.98 GiB in 1.10 s",
            "compiled graphs loaded from the cache",
            "compiled in 0.29 s",
        ],
    ),
}
START = "(EngineCore pid=1) INFO [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='models/7b'\n"
END = (
    "(EngineCore pid=1) INFO [kv_cache_utils.py:2327] GPU KV cache size: 87,376 tokens, Maximum concurrency: 5.33x\n"
    "Capturing CUDA graphs (FULL):   0%|          | 0/35 [00:00<?, ?it/s]\rCapturing CUDA graphs (FULL): 100%|##| 35/35\n"
    f"{WORKER}[model_runner.py:1127] Graph capturing finished in 20 secs, took 0.59 GiB\n"
    "INFO:     Application startup complete.\n"
)


@pytest.mark.parametrize("name", PHASES_OF)
def test_startup_phases_are_reported_once(name: str) -> None:
    """Each phase is reported once and in order, at whatever character the growing log ends."""
    between, expected = PHASES_OF[name]
    log = START + between + END
    phases = StartupPhases()
    reported = [line for end in range(len(log) + 1) for line in phases.new_phases(log[:end])]
    last = ["KV cache: 87,376 tokens", "capturing CUDA graphs", "CUDA graphs captured in 20 s", "HTTP server up"]
    assert reported == ["engine starting", *expected, *last]
