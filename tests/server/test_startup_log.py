"""A server's log is explained in one line for the operator."""

import pytest

from server.launch.startup_log import explain
from server.launch.startup_phases import StartupPhases
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
    assert (
        explain("\n".join(f"\x1b[0;36m(EngineCore_DP0 pid=9)\x1b[0;0m {line}" for line in lines)) == expected
    )
    assert (
        explain("\n".join(PREFIXED + line if not line.startswith("(") else line for line in lines))
        == expected
    )


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


def test_startup_phases_are_reported_once() -> None:
    """Each phase is reported once and in order, at whatever character the growing log ends."""
    log = (
        "(EngineCore pid=1) INFO Initializing a V1 LLM engine (v0.32.0) with config\n"
        "Loading safetensors checkpoint shards:  50% Completed | 1/2\rLoading safetensors checkpoint shards: 100% Completed | 2/2\n"
        "INFO Model loading took 3.35 GiB memory and 1.271400 seconds\n"
        "INFO GPU KV cache size: 4,028,512 tokens\nINFO Application startup complete.\n"
    )
    phases = StartupPhases()
    reported = [line for end in range(len(log) + 1) for line in phases.new_phases(log[:end])]
    assert reported == [
        "engine starting",
        "loading weights: 50 %",
        "loading weights: 100 %",
        "weights loaded: 3.35 GiB in 1.271400 s",
        "KV cache: 4,028,512 tokens",
        "HTTP server up",
    ]
