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
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from server.config import Model, Serving, load_model, load_serving
from server.emulator.engine.hardware import (
    ENGINE_VERSION,
    EngineVersion,
    Gpu,
    engine_versions,
    gpus,
    version_name,
)
from server.emulator.engine.model_runner import served
from server.emulator.engine.virtual_time import Simulation
from server.emulator.simulated_cell import PreparedOutput, PreparedRequest, SimulatedServer
from server.emulator.text.model import TextModel
from server.emulator.text.tokenizer import Tokenizer
from server.speculation import Ngram, of_length

JUDGED_STREAMS = 128
MEASURED_UTILIZATION = 0.85  # of the H200 runs, from their cache_config_info


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One comparison: `tpot` and `ttft` in milliseconds, `power` of one GPU in watts."""

    name: str
    kind: str
    streams: int
    measured: float
    emulated: float

    @property
    def error(self) -> float:
        """Relative error with its sign."""
        return self.emulated / self.measured - 1

    @property
    def judged(self) -> bool:
        """Whether the row counts. With more streams, the API server and the client of the measurement determine the time."""
        return self.streams <= JUDGED_STREAMS


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
    """The configuration with the acceptance that was measured in a row with temperature 0.

    The text of random weights repeats itself, so something is drafted in nearly every step. How much of it is accepted depends on the
    model and on the tensor parallel size, unless it was imposed.
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


def _compare(config: dict[str, Any], gpu: Gpu, version: EngineVersion) -> Iterator[ComparedRow]:
    model: Model = load_model(f"r1-distill-qwen-{config['model']}")
    name, tp = config["config"], config["tensor_parallel_size"]
    serving, version = _served(config, version)
    for row in config["decode"]:
        streams, tokens, prompt = row["concurrency"], row["output_tokens"], round(row["mean_prompt_tokens"])
        title, mode = f"{name} T={row['temperature']:g}", "random" if row["temperature"] else "loop"
        numbers = range(row.get("requests", streams))
        requests = [PreparedRequest(_output(mode, n, prompt, tokens), tokens) for n in numbers]
        simulation = Simulation(_imposed(serving, row), model, gpu, version)
        server = SimulatedServer(simulation, requests)
        done = [response for _, response in server.closed_loop(numbers, streams, 0.0)]
        tpot = [1e3 * (one.times_s[-1] - one.times_s[0]) / one.tokens[1:].sum() for one in done]
        ttft = [1e3 * (one.times_s[0] - one.sent_s) for one in done]
        yield ComparedRow(title, "tpot", streams, row["tpot_p50_ms"], statistics.median(tpot))
        yield ComparedRow(title, "ttft", streams, row["ttft_p50_ms"], statistics.median(ttft))
        if row.get("gpu_power_w"):
            end_s, energy_j = server.energy[-1]
            yield ComparedRow(title, "power", streams, row["gpu_power_w"], energy_j / end_s / tp)
    for row in config.get("prefill") or []:
        request = PreparedRequest(_output("random", 0, row["prompt_tokens"], 2), 2)
        server = SimulatedServer(Simulation(serving, model, gpu, version), [request])
        ((_, one),) = server.closed_loop(range(1), 1, 0.0)
        ttft_ms = 1e3 * (float(one.times_s[0]) - one.sent_s)
        yield ComparedRow(f"{name} prompt={row['prompt_tokens']}", "ttft", 1, row["ttft_ms"], ttft_ms)


def show(rows: list[ComparedRow]) -> None:
    """Print the table on stderr."""
    print(f"{'row':<32}{'':<6}{'streams':>8}{'measured':>10}{'emulated':>10}{'error':>8}", file=sys.stderr)
    for row in rows:
        mark = "" if row.judged else "  (not judged)"
        line = f"{row.name:<32}{row.kind:<6}{row.streams:>8}{row.measured:>10.3f}{row.emulated:>10.3f}{row.error:>+8.1%}{mark}"
        print(line, file=sys.stderr)


def compare(configs: list[dict[str, Any]], gpu: Gpu, engine: EngineVersion) -> list[ComparedRow]:
    """Return one comparison for every row of the measured configurations."""
    return [row for config in configs for row in _compare(config, gpu, engine)]


def summary(rows: list[ComparedRow]) -> dict[str, float | int | None]:
    """Return the median and the worst errors of the rows that are judged."""
    found: dict[str, float | int | None] = {}
    for kind in ("tpot", "ttft", "power"):
        errors = [abs(row.error) for row in rows if row.kind == kind and row.judged]
        found[f"{kind}_rows"] = len(errors)
        if errors:
            found[f"{kind}_median_error"] = round(statistics.median(errors), 4)
            found[f"{kind}_worst_error"] = round(max(errors), 4)
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
