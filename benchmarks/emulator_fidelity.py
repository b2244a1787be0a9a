"""Compares the emulator with real measurements: `python -m benchmarks.emulator_fidelity measurements.json`.

Every row of a file of real measurements is run through the emulator's engine, which is stepped without sockets. Time per
output token, time to first token and, where it was measured, power are compared. Rows above 128 streams are shown but not
judged: there the API server and the client of the measurement determine the time. The last line on stdout is one JSON object.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from server.config import Serving, load_model, load_serving
from server.emulator.engine.hardware import ENGINE_VERSION, EngineVersion, Gpu, engine_versions, gpus, version_name
from server.emulator.engine.model_runner import served
from server.emulator.engine.virtual_time import Simulation
from server.emulator.simulated_cell import PreparedOutput, PreparedRequest, SimulatedServer
from server.emulator.text.model import TextModel
from server.emulator.text.tokenizer import Tokenizer
from server.speculation import Ngram, of_length

KINDS = ("tpot", "ttft", "power")
JUDGED_STREAMS = 128
"""With more streams, the API server and the client of the measurement determine the time."""
MEASURED_UTILIZATION = 0.85  # of the H200 runs, from their cache_config_info


def _served(config: dict[str, Any], version: EngineVersion) -> tuple[Serving, EngineVersion]:
    """The measured configuration, and `version` unless the environment chose a model runner that has the times of another version."""
    spec, ngram = config["speculation"], None
    if spec:
        tokens, shortest, longest = map(int, re.findall(r"\d+", spec)[:3])
        ngram = Ngram(tokens, shortest, longest)
    serving = replace(
        load_serving("tp1"),
        name=config["config"],
        tensor_parallel_size=config["tensor_parallel_size"],
        speculation=ngram,
        async_scheduling=None if config.get("async_scheduling", True) else False,
        gpu_memory_utilization=MEASURED_UTILIZATION,
    )
    name = version_name(version.release)
    serving, engine = served(serving, name, config.get("environment") or {})
    return serving, version if engine == engine_versions()[name] else engine


def _imposed(serving: Serving, row: dict[str, Any]) -> Serving:
    """The configuration in which as many drafts are accepted as in a measured row.

    At temperature 0 the text of random weights repeats itself, so that something is drafted in nearly every step; how much of it is
    accepted depends on the model and the tensor parallel size. The emulator's repeating text has every draft accepted. Where the
    measured one had fewer, its mean number of tokens a step is imposed. At temperature 1 no draft is accepted in either text.
    """
    ngram, length = serving.speculation, row.get("tokens_per_chunk")
    if ngram is None or row["temperature"] or not length or length > 0.9 * (1 + ngram.num_speculative_tokens):
        return serving
    return replace(serving, speculation=replace(ngram, acceptance=of_length(length, ngram.num_speculative_tokens)))


@cache
def _text(mode: str) -> TextModel:
    return TextModel({}, [], Tokenizer(), mode)


@cache
def _output(mode: str, number: int, prompt: int, tokens: int) -> PreparedOutput:
    """A prompt with its output, and a few tokens more, which drafts may contain."""
    text = _text(mode)
    plain = text.tokenizer.plain_ids
    ids = [plain[(number * 7919 + at * 104729 + at * at * 31) % len(plain)] for at in range(prompt)]
    reply = text.reply("", ids, seed=number, temperature=0.0 if mode == "loop" else 1.0)
    reply.grow(tokens + 8)
    return PreparedOutput(ids, reply.ids[: tokens + 8], ended=False, thinking_end=None)


def _compare(config: dict[str, Any], gpu: Gpu, version: EngineVersion) -> Iterator[tuple[str, str, int, float, float]]:
    """Each value of a configuration: row, kind, streams, measured and emulated."""
    model, name, tp = load_model(f"r1-distill-qwen-{config['model']}"), config["config"], config["tensor_parallel_size"]
    serving, version = _served(config, version)

    def emulate(row: dict[str, Any], mode: str, prompt: int, tokens: int) -> tuple[float, float, float]:
        """Median TPOT and TTFT in ms, and the mean power of a GPU in W."""
        streams = row.get("concurrency", 1)
        numbers = range(row.get("requests", streams))
        requests = [PreparedRequest(_output(mode, n, prompt, tokens), tokens) for n in numbers]
        server = SimulatedServer(Simulation(_imposed(serving, row), model, gpu, version), requests)
        done = [response for _, response in server.closed_loop(numbers, streams, 0.0)]
        tpot_s = statistics.median((one.times_s[-1] - one.times_s[0]) / one.tokens[1:].sum() for one in done)
        ttft_s = statistics.median(one.times_s[0] - one.sent_s for one in done)
        end_s, energy_j = server.energy[-1]
        return 1e3 * tpot_s, 1e3 * ttft_s, energy_j / end_s / tp

    for row in config["decode"]:
        title, mode = f"{name} T={row['temperature']:g}", "random" if row["temperature"] else "loop"
        found = emulate(row, mode, round(row["mean_prompt_tokens"]), row["output_tokens"])
        for kind, key, value in zip(KINDS, ("tpot_p50_ms", "ttft_p50_ms", "gpu_power_w"), found, strict=True):
            if row.get(key):
                yield title, kind, row["concurrency"], row[key], value
    for row in config.get("prefill") or []:
        # At temperature 1 no acceptance is imposed.
        _, ttft_ms, _ = emulate(row | {"temperature": 1.0}, "random", row["prompt_tokens"], 2)
        yield f"{name} prompt={row['prompt_tokens']}", "ttft", 1, row["ttft_ms"], ttft_ms


def compare(configs: list[dict[str, Any]], gpu: Gpu, engine: EngineVersion) -> pd.DataFrame:
    """One row for every measured value: `tpot` and `ttft` in ms, `power` of one GPU in W; `error` is relative, with its sign."""
    found = [row for config in configs for row in _compare(config, gpu, engine)]
    rows = pd.DataFrame(found, columns=["row", "kind", "streams", "measured", "emulated"])
    return rows.assign(error=rows["emulated"] / rows["measured"] - 1, judged=rows["streams"] <= JUDGED_STREAMS)


def show(rows: pd.DataFrame) -> None:
    """Print the table on stderr."""
    shown = rows.to_string(index=False, float_format="{:.3f}".format, formatters={"error": "{:+.1%}".format})
    print(shown, file=sys.stderr)


def summary(rows: pd.DataFrame) -> dict[str, float]:
    """Return the median and the worst errors of the rows that are judged."""
    found: dict[str, float] = {}
    for kind in KINDS:
        errors = rows.loc[rows["judged"] & (rows["kind"] == kind), "error"].abs()
        found[f"{kind}_rows"] = len(errors)
        if len(errors):
            found[f"{kind}_median_error"] = round(errors.median(), 4)
            found[f"{kind}_worst_error"] = round(errors.max(), 4)
    return found


def main() -> int:
    """Compare one file; print the table and its summary."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator_fidelity", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, metavar="FILE", help="measurements, e.g. h200-vllm-0.26.0.json")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--engine-version", default=None, help="vLLM release [that of the file]")
    args = parser.parse_args()
    if not args.file.is_file():
        print(f"emulator_fidelity: {args.file}: no such file", file=sys.stderr)
        return 2
    measured = json.loads(args.file.read_text())
    release = args.engine_version or version_name(measured["meta"]["vllm"])
    versions = engine_versions()
    rows = compare(measured["configs"], gpus()[args.gpu], versions.get(release) or versions[ENGINE_VERSION])
    show(rows)
    print(json.dumps(summary(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
