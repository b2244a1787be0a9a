"""Runs vLLM's own client, `vllm bench serve`, on the server of a cell, with the same prompts, load and budget.

Its result is a file in the cell's folder, and its means stand beside ours in `sweep.json`. It counts a request's time per
token with its own clock, so that a difference shows a fault of one of the clients. A failure of it does not fail the cell.

This module does not know how a server is started.
"""

import json
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

from loadgen.files import private_files
from loadgen.options import RunOptions, open_loop
from loadgen.plan import datasets
from loadgen.record import RunInfo
from loadgen.sweep import simulated_records
from loadgen.terminal import latency_text
from server.launch import processes
from server.launch.spec import RunningServer, Spec

RESULT, PROMPTS, LOG = "vllm-bench.json", "vllm-bench-prompts.jsonl", "vllm-bench.log"
MEANS = {"tpot_s": "mean_tpot_ms", "ttft_s": "mean_ttft_ms", "e2e_s": "mean_e2el_ms"}
TIMEOUT_S = 120.0
"""The time for its start; its requests may take twice as long as ours in addition."""


def bench(options: RunOptions, run: RunInfo, server: RunningServer, spec: Spec) -> dict[str, Any] | None:
    """The means of both clients in seconds, or the reason why there are none.

    None for an emulated server, and for a load that `vllm bench serve` cannot send: it can send chat requests with one
    budget in a closed loop.
    """
    if server.emulated or open_loop(options) or len(options.budgets) > 1 or options.path != "chat":
        return None
    folder, count = Path(options.out or "."), int(run.load["requests"])
    prompts = folder / PROMPTS
    with private_files():
        prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in _prompts(options, run, count)))
    command = _command(options, run, server, spec, count)
    try:
        with (folder / LOG).open("wb") as log:
            environment = processes.environment(server.name) | dict(spec.environment)
            limit_s = TIMEOUT_S + 2 * (run.duration_s or 0.0)
            subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=limit_s, check=True)
        found = json.loads((folder / RESULT).read_bytes())
        return {name: [run.summary[name]["mean"], float(found[key]) / 1e3] for name, key in MEANS.items()}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        prompts.unlink()


def in_words(found: dict[str, Any]) -> str:
    """The result of `bench` for people."""
    if "failed" in found:
        return f"vLLM's client has failed: {found['failed']}"
    pairs = ((name, ["none" if mean is None else latency_text(mean) for mean in pair]) for name, pair in found.items())
    return "means of ours and of vLLM's client: " + ", ".join(f"{name} {' and '.join(p)}" for name, p in pairs)


def _prompts(options: RunOptions, run: RunInfo, count: int) -> list[str]:
    """The texts of the user's messages of our own requests."""
    workload = simulated_records.workload(options, datasets.load(options), run.model, run.run_id)
    requests = islice(workload.requests(options.warmup, options.warmup + count), count)
    return [str(request.body["messages"][-1]["content"]) for request in requests]


def _command(options: RunOptions, run: RunInfo, server: RunningServer, spec: Spec, count: int) -> list[str]:
    streams = str(options.concurrency or 16)
    return [
        *("vllm", "bench", "serve", "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--base-url", f"http://127.0.0.1:{server.port}", "--model", run.model),
        *("--tokenizer", str(spec.serve.get("model", run.model)), "--dataset-name", "custom"),
        *("--dataset-path", str(Path(options.out or ".") / PROMPTS), "--skip-chat-template", "--disable-shuffle"),
        *("--custom-output-len", str(options.budgets[0]), "--temperature", f"{options.temperature or 0:g}"),
        *(["--ignore-eos"] if options.extra_body.get("ignore_eos") else []),
        *("--num-prompts", str(count), "--max-concurrency", streams, "--num-warmups", str(options.warmup)),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--save-result"),
        *("--result-dir", str(options.out), "--result-filename", RESULT),
    ]
