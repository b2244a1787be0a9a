"""Compares the emulator with real measurements: `python -m benchmarks.emulator_fidelity measurements.json`.

Every row of a file of real measurements is run through the emulator's engine, which is stepped without sockets. Time per
output token, time to first token and, where it was measured, power are compared. Rows above 64 streams are shown but not
judged: there the API server and the client of the measurement determine the time. The last line on stdout is one JSON object.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.config import Model, Ngram, Serving, load_model, load_serving
from server.emulator.engine.gpu_telemetry import Telemetry
from server.emulator.engine.hardware import EngineVersion, Gpu, engine_versions, gpus
from server.emulator.engine.sequence import TokenSequence
from server.emulator.engine.virtual_time import Simulation
from server.emulator.text.model import TextModel
from server.emulator.text.tokenizer import Tokenizer

JUDGED_STREAMS = 64
MEASURED_UTILIZATION = 0.85  # of the H200 runs, from their cache_config_info


@dataclass(frozen=True, slots=True)
class Row:
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
        return self.streams <= (1 if self.kind == "ttft" else JUDGED_STREAMS)


def _serving(config: dict[str, Any]) -> Serving:
    spec = config["speculation"]
    ngram = None
    if spec:
        tokens, shortest, longest = map(int, re.findall(r"\d+", spec)[:3])
        ngram = Ngram(tokens, shortest, longest)
    tp = config["tensor_parallel_size"]
    base = load_serving("tp1")
    return replace(
        base,
        name=config["config"],
        tensor_parallel_size=tp,
        speculation=ngram,
        async_scheduling=None if config.get("async_scheduling", True) else False,
        gpu_memory_utilization=MEASURED_UTILIZATION,
    )


def burst(
    simulation: Simulation, text: TextModel, streams: int, prompt: int, tokens: int
) -> tuple[list[float], list[float]]:
    """Return TTFT and TPOT, in ms, of requests that all start at the same time."""
    plain = text.tokenizer.plain_ids
    for number in range(streams):
        ids = [plain[(number * 7919 + at * 104729 + at * at * 31) % len(plain)] for at in range(prompt)]
        reply = text.reply("", ids, seed=number, temperature=0.0 if text.mode == "loop" else 1.0)
        reply.grow(tokens + 8)
        simulation.submit(TokenSequence(ids=ids + reply.ids[: tokens + 8], prompt=prompt, end=tokens), 0.0)
    ttft, tpot = [], []
    for done in simulation.run():
        ttft.append(1e3 * float(done.times_s[0]))
        rest = int(done.tokens[1:].sum())
        if rest:
            tpot.append(1e3 * float(done.times_s[-1] - done.times_s[0]) / rest)
    return ttft, tpot


def _compare(
    config: dict[str, Any], gpu: Gpu, version: EngineVersion, texts: dict[str, TextModel]
) -> Iterator[Row]:
    model: Model = load_model(f"r1-distill-qwen-{config['model']}")
    serving, name = _serving(config), config["config"]
    for row in config["decode"]:
        text = texts["random" if row["temperature"] else "loop"]
        streams, title = row["concurrency"], f"{name} T={row['temperature']:g}"
        simulation = Simulation(serving, model, gpu, version)
        ttft, tpot = burst(simulation, text, streams, round(row["mean_prompt_tokens"]), row["output_tokens"])
        yield Row(title, "tpot", streams, row["tpot_p50_ms"], statistics.median(tpot))
        yield Row(title, "ttft", streams, row["ttft_p50_ms"], statistics.median(ttft))
        if row.get("gpu_power_w"):
            engine = simulation.engine
            emulated_w = Telemetry(gpu, 1, used_bytes=0, seed=0).power_w(engine.now_s, engine.usage)
            yield Row(title, "power", streams, row["gpu_power_w"], emulated_w)
    for row in config.get("prefill") or []:
        ttft, _ = burst(Simulation(serving, model, gpu, version), texts["random"], 1, row["prompt_tokens"], 2)
        yield Row(f"{name} prompt={row['prompt_tokens']}", "ttft", 1, row["ttft_ms"], ttft[0])


def show(rows: list[Row]) -> None:
    """Print the table on stderr."""
    print(f"{'row':<32}{'':<6}{'streams':>8}{'measured':>10}{'emulated':>10}{'error':>8}", file=sys.stderr)
    for row in rows:
        mark = "" if row.judged else "  (not judged)"
        line = f"{row.name:<32}{row.kind:<6}{row.streams:>8}{row.measured:>10.3f}{row.emulated:>10.3f}{row.error:>+8.1%}{mark}"
        print(line, file=sys.stderr)


def compare(configs: list[dict[str, Any]], gpu: Gpu, engine: EngineVersion) -> list[Row]:
    """Return one comparison for every row of the measured configurations."""
    tokenizer = Tokenizer()
    texts = {mode: TextModel({}, [], tokenizer, mode) for mode in ("loop", "random")}
    return [row for config in configs for row in _compare(config, gpu, engine, texts)]


def summary(rows: list[Row]) -> dict[str, float | int | None]:
    """Return the median and the worst errors of the rows that are judged."""
    errors = {
        kind: [abs(row.error) for row in rows if row.kind == kind and row.judged]
        for kind in ("tpot", "ttft", "power")
    }
    found: dict[str, float | int | None] = {
        "median_error": round(statistics.median(errors["tpot"]), 4),
        "worst_error": round(max(errors["tpot"]), 4),
        "single_ttft_worst_error": round(max(errors["ttft"]), 4) if errors["ttft"] else None,
        "rows": len(errors["tpot"]),
    }
    if errors["power"]:
        found["power_median_error"] = round(statistics.median(errors["power"]), 4)
        found["power_worst_error"] = round(max(errors["power"]), 4)
    return found


def main() -> int:
    """Compare one file; print the table and its summary."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emulator_fidelity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="measurements, e.g. h200-vllm-0.26.0.json")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--engine-version", default=None, help="vLLM release [that of the file]")
    args = parser.parse_args()
    if not args.file.is_file():
        print(f"emulator_fidelity: {args.file}: no such file", file=sys.stderr)
        return 2
    measured = json.loads(args.file.read_text())
    release = args.engine_version or ".".join(measured["meta"]["vllm"].split(".")[:2])
    versions = engine_versions()
    rows = compare(measured["configs"], gpus()[args.gpu], versions.get(release) or versions["0.32"])
    show(rows)
    print(json.dumps(summary(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
