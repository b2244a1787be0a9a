"""Print up to which load speculation pays, and draw the figures of the study on four GPUs.

    python -m benchmarks.studies.crossover FOLDER … [--figures OUT]

Each folder holds the cells of one study. A speed-up is that of the summed TPOT over the problems that both cells have, and compares
cells of one folder only, with equal numbers of output tokens where the baseline has them. Several speed-ups at one load, of several
folders or numbers of output tokens, count with their geometric mean. The 95 % interval contains the differences between problems and
the noise between runs. Between two loads, the logarithm of the speed-up is interpolated over the logarithm of the load; the interval of
a crossing is where the bounds of the speed-up cross 1.

This module does not know which acceptance a real text has.
"""

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import altair as alt
import pandas as pd
import vl_convert

from analysis import noise, stats
from analysis.figures.base import Figure, rows_data
from analysis.figures.style import HEIGHT, MUTED, PALETTE
from analysis.page.export import specification
from analysis.tables.crossover import crossing
from benchmarks.studies.cells import MeasuredCell, Setting, by_setting, interval, table
from server.emulator.engine.hardware import engine_versions, version_name
from server.emulator.engine.model_runner import RUNNER

LOADS, SIZES = (1, 8, 32, 128), ("1.5b", "7b", "14b")
NOTE = (
    "TPOT of the baseline / TPOT, same problems. Bars: 95 % intervals with the noise between runs. Above 1 is faster."
)
SPECULATION = "model | TP | vLLM | tokens a step | c1 | c8 | c32 | c128 | falls to 1 at (95 %)"
SCALING = "model | load | TP | TPOT p50, ms | speed-up | J a token | GPU-ms a token"


class Kind(NamedTuple):
    """What a speed-up depends on besides the load: the model, the number of GPUs, the engine, and the tokens that a step accepts."""

    model: str
    tp: int
    engine: str
    tokens: str


Speedups = dict[Kind, dict[int, stats.Interval]]


def engine_of(cell: MeasuredCell) -> str:
    """The release of vLLM, and the model runner where the environment chose another than the release's own for n-gram."""
    release = version_name(cell.run.server["version"])
    v1 = engine_versions()[release].ngram_v2 and (cell.run.server.get("environment") or {}).get(RUNNER) == "0"
    return f"{release}, V1 runner" if v1 else release


def tokens_per_step(key: Setting) -> str:
    """The acceptance of a setting in words: imposed, or that of the text of random weights at its temperature.

    At temperature 0 the text repeats itself. On the V1 runner nearly all that is drafted is then accepted, on the V2 runner not.
    """
    if imposed := re.search(r"-a([\d.]+)$", key.config):
        return imposed[1]
    return "none accepted" if key.temperature else "repeating text"


def speedups(studies: list[dict[Setting, MeasuredCell]], *, parallel: bool) -> Speedups:
    """The speed-up by n-gram speculation, or that by tensor parallelism without it, by kind and load."""
    found: dict[Kind, dict[int, list[tuple[float, float, int]]]] = {}
    for study in studies:
        for key, cell in study.items():
            config = key.config.split("-")[0]
            if parallel == ("ngram" in key.config) or "sync" in key.config or key.model not in SIZES:
                continue
            same = key._replace(config="tp1" if parallel else config, temperature=0.0)
            base = study.get(same) or study.get(same._replace(budget=1024))
            if base is None or same == key:
                continue
            sides = base.tpot_ms.align(cell.tpot_ms, join="inner")
            tokens = "" if parallel else tokens_per_step(key)
            kind = Kind(key.model, int(config.removeprefix("tp")), engine_of(cell), tokens)
            found.setdefault(kind, {}).setdefault(key.streams, []).append(stats.log_ratio(*sides))
    return {kind: {streams: _mean(ratios) for streams, ratios in loads.items()} for kind, loads in found.items()}


def _mean(ratios: list[tuple[float, float, int]]) -> stats.Interval:
    """The geometric mean of ratios of several runs; without bounds where too few problems were measured."""
    middles, errors, units = zip(*ratios, strict=True)
    runs = noise.Runs(len(ratios))
    error = math.hypot(*errors) / len(ratios)
    one = noise.effect(statistics.fmean(middles), error, sum(units), (runs, runs), noise.DAY_TO_DAY)
    found = one.interval()
    return found if one.degrees >= stats.MIN_UNITS - 1 else found._replace(low=math.nan, high=math.nan)


def shown_crossing(points: dict[int, float]) -> str:
    """The load at which a speed-up falls to 1; `<1` or `>128` where it is below or above 1 at every load."""
    loads = sorted(streams for streams, value in points.items() if not math.isnan(value))
    at = crossing(points.items())
    ends = {0.0: f"<{min(loads, default=0)}", math.inf: f">{max(loads, default=0)}"}
    return "–" if math.isnan(at) else ends.get(at, f"{at:.0f}")


def by_size(found: Speedups) -> list[Kind]:
    """The kinds in the order of the tables: small models, few GPUs and few accepted tokens first."""
    return sorted(found, key=lambda kind: (SIZES.index(kind.model), kind.tp, kind.tokens, kind.engine))


def rows(found: Speedups) -> Iterator[str]:
    """Rows with the speed-up at each load and the load at which it falls to 1."""
    for kind in by_size(found):
        loads = found[kind]
        shown = [interval(*loads[n]) if n in loads else "–" for n in LOADS]
        at, low, high = (shown_crossing({n: one[place] for n, one in loads.items()}) for place in range(3))
        falls = at if low == at == high else f"{at} ({low} to {high})"
        yield f"{kind.model} | {kind.tp} | {kind.engine} | {kind.tokens} | {' | '.join(shown)} | {falls}"


def scaling_rows(study: dict[Setting, MeasuredCell], found: Speedups) -> Iterator[str]:
    """Rows of the cells without speculation: TPOT, speed-up by the number of GPUs, energy and GPU time of a token."""
    plain = [key for key in study if "-" not in key.config and key.model in SIZES]
    for key in sorted(plain, key=lambda key: (SIZES.index(key.model), key.streams, key.config)):
        cell, tp = study[key], int(key.config.removeprefix("tp"))
        speedup = found.get(Kind(key.model, tp, engine_of(cell), ""), {}).get(key.streams)
        w, tokens_per_s = cell.power_and_rate
        yield (
            f"{key.model} | c{key.streams} | {tp} | {cell.ms('tpot_s').median():.2f} | {interval(*speedup) if speedup else '1'}"
            f" | {w / tokens_per_s:.3f} | {1e3 * tp / tokens_per_s:.3f}"
        )


def figure(name: str, claim: str, found: Speedups, by: str, title: str) -> Figure:
    """Speed-ups over the load with their intervals, one panel for each model, one line for each value of the field `by`."""
    table = pd.DataFrame(
        kind._asdict() | {"streams": streams, **one._asdict()}
        for kind in by_size(found)
        for streams, one in sorted(found[kind].items())
    )
    lines = sorted(table[by].unique())
    colour = alt.Color(f"{by}:N", title=title, sort=lines, legend=alt.Legend(symbolOpacity=1)).scale(
        domain=lines, range=PALETTE[: len(lines)]
    )
    x = alt.X("streams:Q", title="requests in flight", axis=alt.Axis(values=list(LOADS), grid=False))
    newest_first = sorted(set(table["engine"]), key=lambda engine: ("," in engine, -float(engine.split(",")[0])))
    dash = alt.StrokeDash("engine:N", title="vLLM", sort=newest_first)
    base = alt.Chart(rows_data()).encode(x=x.scale(type="log", base=2), color=colour, detail="engine:N")
    y = alt.Y("estimate:Q", title="speed-up", axis=alt.Axis(values=[0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4]))
    y = y.scale(type="log", nice=False, domain=[0.9 * table["low"].min(), 1.1 * table["high"].max()])
    layers = (
        alt.Chart(rows_data()).mark_rule(color=MUTED).encode(y=alt.datum(1.0)),
        base.mark_rule(opacity=0.35, strokeWidth=4).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line().encode(y=y, **({"strokeDash": dash} if len(set(table["engine"])) > 1 else {})),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y),
    )
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT)
    return Figure(name, claim, NOTE, table, chart, panel="model")


def draw(speculation: Speedups, parallel: Speedups, out: Path) -> None:
    """Write both figures as SVG; the first one with those acceptances that several engines have in common, if there are several."""
    one_gpu = {kind: found for kind, found in speculation.items() if kind.tp == 1}
    compared = {kind.tokens: {one.engine for one in one_gpu if one.tokens == kind.tokens} for kind in one_gpu}
    if any(len(engines) > 1 for engines in compared.values()):
        one_gpu = {kind: found for kind, found in one_gpu.items() if len(compared[kind.tokens]) > 1}
    out.mkdir(parents=True, exist_ok=True)
    for made in (
        figure("crossover", "Speed-up by n-gram speculation on one GPU", one_gpu, "tokens", "tokens a step"),
        figure("tp-scaling", "Speed-up by two and four GPUs, without speculation", parallel, "tp", "GPUs"),
    ):
        svg = vl_convert.vegalite_to_svg(json.dumps(specification(made, {})))
        (out / f"{made.name}.svg").write_text(svg, encoding="utf-8")


def main(argv: list[str]) -> int:
    """Print the tables of both speed-ups (the second one of the cells of the first folder), and draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--figures", type=Path, metavar="OUT", help="folder for crossover.svg and tp-scaling.svg")
    args = parser.parse_args(argv)
    studies = [by_setting(folder) for folder in args.folders]
    speculation, parallel = speedups(studies, parallel=False), speedups(studies, parallel=True)
    table(SPECULATION, rows(speculation))
    print()
    table(SCALING, scaling_rows(studies[0], parallel))
    if args.figures:
        draw(speculation, parallel, args.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
