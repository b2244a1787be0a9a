"""How true the emulator's times are: `python -m benchmarks.emulator_fidelity measurements.json`.

Runs every row of a file of real measurements through the emulator's engine (stepped, no sockets) and compares time per
output token and time to first token. Rows above 64 streams are shown and not judged: there the API server and the client
of the measurement set the time. The last line on stdout is one JSON object.
"""

import argparse
import json
import re
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from server.config import Model, Ngram, Serving, load_model, load_serving
from server.emulator.profiles import EngineVersion, Gpu, engine_versions, gpus
from server.emulator.simulate import Simulation
from server.emulator.stream import Stream
from server.emulator.text import TextModel
from server.emulator.tokenizer import Tokenizer

JUDGED_STREAMS = 64
MEASURED_UTILIZATION = 0.85  # of the H200 runs, from their cache_config_info


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison, in milliseconds."""

    name: str
    kind: str
    streams: int
    measured_ms: float
    emulated_ms: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.emulated_ms / self.measured_ms - 1


def _serving(config: dict[str, Any]) -> Serving:
    spec = config["speculation"]
    ngram = None
    if spec:
        k, low, high = map(int, re.findall(r"\d+", spec)[:3])
        ngram = Ngram(k, low, high)
    tp = config["tensor_parallel_size"]
    base = load_serving("tp1")
    return replace(
        base,
        name=config["config"],
        tensor_parallel_size=tp,
        speculation=ngram,
        gpu_memory_utilization=MEASURED_UTILIZATION,
    )


def _burst(
    simulation: Simulation, text: TextModel, streams: int, prompt: int, tokens: int
) -> tuple[list[float], list[float]]:
    """TTFT and TPOT, in ms, of requests that all start together."""
    plain = text.tokenizer.plain_ids
    for number in range(streams):
        ids = [plain[(number * 7919 + at * 104729 + at * at * 31) % len(plain)] for at in range(prompt)]
        reply = text.reply("", ids, seed=number, temperature=0.0 if text.mode == "loop" else 1.0)
        reply.grow(tokens + 8)
        simulation.submit(
            Stream(key=str(number), ids=ids + reply.ids[: tokens + 8], prompt=prompt, end=tokens), 0.0
        )
    ttft, tpot = [], []
    for done in simulation.run():
        ttft.append(1e3 * float(done.times_s[0]))
        rest = int(done.tokens[1:].sum())
        if rest:
            tpot.append(1e3 * float(done.times_s[-1] - done.times_s[0]) / rest)
    return ttft, tpot


def _compare(
    config: dict[str, Any], gpu: Gpu, version: EngineVersion, texts: dict[str, TextModel]
) -> list[Row]:
    model: Model = load_model(f"r1-distill-qwen-{config['model']}")
    serving, name, rows = _serving(config), config["config"], []

    def fresh() -> Simulation:
        return Simulation(serving, model, gpu, version)

    for row in config["decode"]:
        text = texts["random" if row["temperature"] else "loop"]
        streams = row["concurrency"]
        ttft, tpot = _burst(fresh(), text, streams, round(row["mean_prompt_tokens"]), row["output_tokens"])
        rows.append(
            Row(
                f"{name} T={row['temperature']}", "tpot", streams, row["tpot_p50_ms"], statistics.median(tpot)
            )
        )
        rows.append(
            Row(
                f"{name} T={row['temperature']}", "ttft", streams, row["ttft_p50_ms"], statistics.median(ttft)
            )
        )
    for row in config.get("prefill") or []:
        ttft, _ = _burst(fresh(), texts["random"], 1, row["prompt_tokens"], 2)
        rows.append(Row(f"{name} prompt={row['prompt_tokens']}", "ttft", 1, row["ttft_ms"], ttft[0]))
    return rows


def _show(rows: list[Row]) -> None:
    print(f"{'row':<32}{'':<5}{'streams':>8}{'measured':>10}{'emulated':>10}{'error':>8}", file=sys.stderr)
    for row in rows:
        judged = row.streams <= JUDGED_STREAMS if row.kind == "tpot" else row.streams == 1
        mark = "" if judged else "  (not judged)"
        line = f"{row.name:<32}{row.kind:<5}{row.streams:>8}{row.measured_ms:>10.3f}{row.emulated_ms:>10.3f}{row.error:>+8.1%}{mark}"
        print(line, file=sys.stderr)


def compare(path: Path, gpu: str, version: str | None) -> list[Row]:
    """Every row of one file."""
    measured = json.loads(path.read_text())
    release = ".".join(measured["meta"]["vllm"].split(".")[:2]) if version is None else version
    tokenizer = Tokenizer()
    texts = {mode: TextModel({}, [], tokenizer, mode) for mode in ("loop", "random")}
    versions = engine_versions()
    engine = versions.get(release) or versions["0.32"]
    return [row for config in measured["configs"] for row in _compare(config, gpus()[gpu], engine, texts)]


def main() -> int:
    """Compare one file; print the table and a verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.emulator_fidelity", description=__doc__.splitlines()[0]
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="measurements, e.g. h200-vllm-0.26.0.json")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--engine-version", default=None, help="default: the file's own")
    args = parser.parse_args()
    if not args.file.is_file():
        print(f"emulator_fidelity: {args.file}: no such file", file=sys.stderr)
        return 2
    rows = compare(args.file, args.gpu, args.engine_version)
    _show(rows)
    tpot = [abs(row.error) for row in rows if row.kind == "tpot" and row.streams <= JUDGED_STREAMS]
    first = [abs(row.error) for row in rows if row.kind == "ttft" and row.streams == 1]
    result = {
        "median_error": round(statistics.median(tpot), 4),
        "worst_error": round(max(tpot), 4),
        "single_ttft_worst_error": round(max(first), 4) if first else None,
        "rows": len(tpot),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
