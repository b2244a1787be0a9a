"""Explains from a server's log why it did not start, in one line for the operator.

A root cause comes before its consequences: vLLM logs the cause in the engine process, and then that the engine has died.
The causes are therefore in order of preference, not of appearance. The patterns are log lines of vLLM 0.26 to 0.33. Example
logs are in `tests/logs/`. This module does not know how the server was started.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A kind of failure, the pattern of its log line, and the advice for the operator ({0}, {1}: the groups of the pattern)."""

    kind: str
    pattern: str
    advice: str


CAUSES = (
    Cause("unknown_flag", r"error: unrecognized arguments: (.+)", "vllm serve does not know {0}: check the spelling and the engine version"),
    Cause("bad_speculation", r"argument --speculative-config\S*: (.+?)(?: cannot be converted.*)?$", "speculative-config is not valid JSON: {0}"),
    Cause("bad_speculation", r"for SpeculativeConfig\n(?:[\w.]+\n)?\s+(?:Value error, )?([^\[\n]{1,160})", "bad speculative-config: {0}"),
    Cause("bad_speculation", r"SpeculativeConfig\S* got an unexpected keyword argument '([^']+)'", "bad speculative-config: no such key {0}"),
    Cause("bad_speculation", r"^\w*Error: (.*(?:[Ss]peculative|prompt_lookup|draft model).{0,160})$", "bad speculative-config: {0}"),
    Cause("heads", r"Total number of attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)", "tensor-parallel-size {1} does not divide the model's {0} attention heads: choose another configuration"),
    Cause("too_few_gpus", r"(?:World|Tensor parallel) size \((\d+)\) (?:is|cannot be) larger than the number of available GPUs \((\d+)\)", "tensor-parallel-size {0} needs {0} GPUs, {1} are visible: choose a smaller configuration"),
    Cause("too_few_gpus", r"CUDA error: invalid device ordinal", "tensor-parallel-size exceeds the number of visible GPUs: choose a smaller configuration"),
    Cause("too_few_gpus", r"number of required GPUs exceeds the total number of available GPUs", "tensor-parallel-size exceeds the number of GPUs: choose a smaller configuration"),
    Cause("hub_refuses", r"Cannot access gated repo for url \S*?://[^/]+/(?:api/models/)?([\w.-]+/[\w.-]*\w)", "the Hugging Face Hub refuses {0} (401, gated): accept its license there and set HF_TOKEN"),
    Cause("hub_refuses", r"GatedRepoError|trying to access a gated repo", "the Hugging Face Hub refuses the model (401, gated): accept its license there and set HF_TOKEN"),
    Cause("no_model", r"Repository Not Found for url: \S*?://[^/]+/(?:api/models/)?([\w.-]+/[\w.-]*\w)", "no model {0} on the Hugging Face Hub (or it is private: set HF_TOKEN)"),
    Cause("no_model", r"OSError: (\S+) is not a local folder and is not a valid model identifier", "no model {0}: neither a folder nor on the Hugging Face Hub"),
    Cause("no_model", r"HFValidationError: Repo id must.*: '([^']+)'", "no model {0}: neither a folder nor an id on the Hugging Face Hub"),
    Cause("no_model", r"Invalid repository ID or local directory specified: '([^']*)'", "no model {0}: neither a folder with config.json nor on the Hugging Face Hub"),
    Cause("no_model", r"(?:OSError: )?(\S+) does not appear to have a file named config\.json", "no model {0}: it has no config.json"),
    Cause("hub_unreachable", r"couldn't connect to '(https://[^']+)'", "{0} cannot be reached and the model is not in the local cache: check the network, or download it first"),
    Cause("no_model", r"(?:LocalEntryNotFoundError|OfflineModeIsEnabled)", "the model is not in the local cache and HF_HUB_OFFLINE forbids a download: download it first"),
    Cause("hub_refuses", r"401 Client Error|HTTP/1\.1 401|Invalid credentials in Authorization header", "the Hugging Face Hub refuses the model (401): set a valid HF_TOKEN"),
    Cause("kv_too_small", r"max seq len \((\d+)\), \(([\d.]+ GiB) KV cache is needed, which is larger than the available KV cache memory \(([\d.-]+ GiB)\)(?:.*?maximum model length is (\d+))?", "KV cache too small: max-model-len {0} needs {1}, {2} is left (fits: {3}): lower max-model-len or use more GPUs"),
    Cause("kv_too_small", r"max seq len \((\d+)\) is larger than the maximum number of tokens that can be stored in KV cache \((\d+)\)", "KV cache too small: max-model-len {0}, space for {1} tokens: lower max-model-len or use more GPUs"),
    Cause("kv_too_small", r"No available memory for the cache blocks", "no GPU memory is left for the KV cache: raise gpu-memory-utilization or use more GPUs"),
    Cause("out_of_memory", r"CUDA out of memory\. Tried to allocate ([\d.]+ [GMK]iB)", "GPU out of memory (allocating {0}): use more GPUs, a smaller model or a lower gpu-memory-utilization"),
    Cause("out_of_memory", r"Free memory on device \S* ?\(([\d.]+)/([\d.]+) GiB\) on startup is less than desired GPU memory utilization", "GPU out of memory: only {0} of {1} GiB are free at the start: another process uses the GPU (see nvidia-smi)"),
    Cause("out_of_memory", r"OutOfMemoryError|CUDA error: out of memory", "GPU out of memory: use more GPUs, a smaller model or a lower gpu-memory-utilization"),
    Cause("port_taken", r"(?:\[Errno (?:98|48)\]|cannot listen on) .*[Aa]ddress already in use", "the port is taken: free it or choose another with --port"),
    Cause("no_file", r"FileNotFoundError: \[Errno 2\] No such file or directory: '([^']+\.ya?ml)'", "no configuration file {0}"),
    Cause("disk_full", r"No space left on device", "the disk is full: free some space, or point HF_HOME elsewhere"),
    Cause("refused", r"^server: (.+)$", "{0}"),  # the emulator's own error line
    Cause("engine_died", r"(?:Engine core initialization failed|EngineCore failed to start|EngineDeadError)", "the engine died at start: {root}"),
)  # fmt: skip
EXCEPTION_LINE = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)$", re.MULTILINE)
"""The last line of a Python traceback."""
COLOR = re.compile(r"\x1b\[[\d;]*m")
PREFIX = re.compile(
    r"^(?:\([^()\n]*\bpid=\d+[^()\n]*\) )*(?:(?:DEBUG|INFO|WARNING|ERROR) [\d-]+ [\d:.]+ \[[^\]\n]+\] ?)?",
    re.MULTILINE,
)
"""Process, level, time and source location, which vLLM writes before each line, also of a traceback."""


def explain(log: str) -> tuple[str, str] | None:
    """The kind and the one-line explanation of the first cause that matches the log, or None."""
    text = PREFIX.sub("", COLOR.sub("", log))
    for cause in CAUSES:
        if match := re.search(cause.pattern, text, re.MULTILINE):
            groups = [(group or "?").strip() for group in match.groups()]
            return cause.kind, cause.advice.format(*groups, root=_root_cause(text))
    return None


def _root_cause(log: str) -> str:
    """The first exception in the log that is not merely a report that the engine has died."""
    lines = [
        line
        for line in EXCEPTION_LINE.findall(log)
        if "Engine core initialization failed" not in line and "EngineDead" not in line
    ]
    return lines[0][:200] if lines else "its log contains no exception"
