"""`python -m analysis compare BASE NEW --gate latency=3%,accuracy=1pt,cost=3%`: what became worse, beyond noise.

Rules: the same settings and the same problems on both sides. A regression is a change worse than the gate with 95 %
one-sided confidence, Holm's correction over all settings and measures: at most 5 false alarms in 100 comparisons of
equals, however many settings there are. A setting is sound where a change of twice the gate would have been seen 9 times
in 10, or where the interval excludes the gate; else the data can't tell. Where a side holds repeated runs of a setting,
run-to-run noise joins the interval; without repeats only the problems' noise is known, and the output says so.
Exit 1: a regression. 0: none. 2: can't tell, or nothing to compare.

Does not know: why.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.data import setting
from analysis.data.frame import read_study
from analysis.errors import InputError
from analysis.format import number, plain
from analysis.tables.summary import judged, requests

ALPHA, POWER = 0.05, 0.90
SETTING = [
    name for name in setting.SETTING if name != "dataset"
]  # problems pair by their ids, whatever file they came in
COLUMN = {"latency": "e2e_s", "cost": "gpu_s", "accuracy": "correct"}
DEFAULT_GATE = "latency=3%,accuracy=1pt,cost=3%"
SMALLEST_PAIRS = 5
LOST = 0.01  # of requests failed beyond BASE's: above, the survivors' latency and cost tell nothing


@dataclass(frozen=True, slots=True)
class Change:
    """One measure of one setting: how much worse NEW is, as a share (accuracy: as points), against its gate."""

    setting: dict[str, Any]
    measure: str
    gate: float
    base: float
    new: float
    worse: float
    """Positive is worse: log ratio of means for latency and cost, lost accuracy for accuracy."""
    error: float
    """Standard error of `worse`, run-to-run noise included where repeats tell it."""
    freedom: float
    """Degrees of freedom behind `error`."""
    n: int
    repeats: tuple[int, int]
    floor: float
    """Run-to-run standard deviation, NaN without repeats."""
    lost: float = 0.0
    """Share of requests that failed in NEW beyond BASE's."""
    alpha: float = ALPHA
    """One-sided error allowed to this row: ALPHA shared by all rows."""

    @property
    def bound(self) -> float:
        """The gate on the scale of `worse`."""
        return self.gate if self.measure == "accuracy" else float(np.log1p(self.gate))

    @property
    def p_value(self) -> float:
        """How likely so bad a change is, were the truth at the gate."""
        if self.error == 0:
            return 0.0 if self.worse > self.bound else 1.0
        return float(stats.t.sf((self.worse - self.bound) / self.error, self.freedom))

    @property
    def smallest_seen(self) -> float:
        """The change that would have been called a regression 9 times in 10, on the scale of the gate."""
        reach = (
            float(stats.t.ppf(1 - self.alpha, self.freedom) + stats.t.ppf(POWER, self.freedom)) * self.error
        )
        return self.bound + reach if self.measure == "accuracy" else float(np.expm1(self.bound + reach))

    @property
    def telling(self) -> bool:
        """Whether twice the gate could have been seen, or the gate is excluded anyway, and nothing was lost on the way."""
        if self.lost > LOST and self.measure != "accuracy":  # accuracy counts a failure as not right
            return False
        upper = self.worse + float(stats.t.ppf(1 - ALPHA, self.freedom)) * self.error
        return self.smallest_seen <= 2 * self.gate or upper < self.bound


def parse_gate(text: str) -> dict[str, float]:
    """`latency=3%,accuracy=1pt` to shares. Raises InputError."""
    gate = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        unit = "pt" if name == "accuracy" else "%"
        if name not in COLUMN or not value.endswith(unit):
            raise InputError(
                f"--gate {part}: write {DEFAULT_GATE}, or some of it (accuracy in pt, the others in %)"
            )
        try:
            gate[name] = float(value.removesuffix(unit)) / 100
        except ValueError as error:
            raise InputError(f"--gate {part}: {value.removesuffix(unit)!r} is no number") from error
        if not 0 < gate[name] < 10:  # a thousand per cent is a slip
            raise InputError(f"--gate {part}: must be above 0 and below 1000 {unit}")
    return gate


def compare(base: pd.DataFrame, new: pd.DataFrame, gate: dict[str, float]) -> list[Change]:
    """Every measure of every setting that both sides hold."""
    sides = [_usable(frame) for frame in (base, new)]
    by_setting = [dict(list(side.groupby(SETTING, observed=True, sort=False))) for side in sides]
    changes = []
    for key, old in by_setting[0].items():
        if key not in by_setting[1]:
            continue
        where = dict(zip(SETTING, key, strict=True))
        for measure, limit in gate.items():
            change = _change(where, measure, limit, old, by_setting[1][key])
            changes += [change] if change is not None else []
    return [replace(change, alpha=ALPHA / len(changes)) for change in changes]


def _usable(frame: pd.DataFrame) -> pd.DataFrame:
    rows = requests(frame)
    rows = rows[(judged(rows) != "INVALID").to_numpy()]
    return rows.assign(
        e2e_s=rows["e2e_s"].where(rows["ok"]), gpu_s=rows["gpu_s"].where(rows["ok"] & rows["gpu_s"].gt(0))
    )


def _change(
    where: dict[str, Any], measure: str, gate: float, old: pd.DataFrame, new: pd.DataFrame
) -> Change | None:
    column = COLUMN[measure]
    means = [side.groupby("problem_id", observed=True)[column].mean() for side in (old, new)]
    both = pd.concat(means, axis=1, keys=["base", "new"]).dropna()
    if len(both) < SMALLEST_PAIRS or (both["base"].sum() == 0 and measure != "accuracy"):
        return None
    a, b = both["base"].to_numpy(dtype=float), both["new"].to_numpy(dtype=float)
    worse, error = _accuracy(a, b) if measure == "accuracy" else _log_ratio(a, b)
    runs = [_run_means(side, column, both.index) for side in (old, new)]
    floor, spare = _noise(runs, log=measure != "accuracy")
    freedom = float(len(both) - 1)
    if np.isfinite(floor):
        between = floor * np.sqrt(1 / len(runs[0]) + 1 / len(runs[1]))
        if between > error:  # the problems' noise is in the runs' means already
            error, freedom = between, float(spare)
    repeats = (len(runs[0]), len(runs[1]))
    lost = float(old["ok"].mean() - new["ok"].mean())
    means_of = (float(a.mean()), float(b.mean()))
    return Change(where, measure, gate, *means_of, worse, error, freedom, len(both), repeats, floor, lost)


def _log_ratio(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Log of Σ b / Σ a and its delta-method error over problems."""
    ratio = b.sum() / a.sum()
    spread = np.std(b / b.mean() - a / a.mean(), ddof=1)
    return float(np.log(ratio)), float(spread / np.sqrt(len(a)))


def _accuracy(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Accuracy lost, and Bonett and Price's error: one pair added to each side keeps it from being zero."""
    lost = np.append(a - b, [1.0, -1.0])
    return float((a - b).mean()), float(np.sqrt(np.mean(lost**2) - np.mean(lost) ** 2) / np.sqrt(len(lost)))


def _run_means(side: pd.DataFrame, column: str, problems: pd.Index) -> np.ndarray[Any, Any]:
    """The mean of each run of the setting, over problems that both sides hold."""
    rows = side[side["problem_id"].isin(problems)]
    means: np.ndarray[Any, Any] = (
        rows.groupby("cell", observed=True)[column].mean().dropna().to_numpy(dtype=float)
    )
    return means


def _noise(runs: list[np.ndarray[Any, Any]], *, log: bool) -> tuple[float, int]:
    """Pooled standard deviation between repeated runs (of logs for ratios), and its degrees of freedom."""
    spare = sum(len(side) - 1 for side in runs)
    if spare <= 0 or any(len(side) == 0 for side in runs):
        return float("nan"), 0
    scaled = [np.log(side) if log else side for side in runs]
    squares = sum(float(((side - side.mean()) ** 2).sum()) for side in scaled)
    return float(np.sqrt(squares / spare)), spare


NOTHING = "## Nothing to compare\n\nThe two results share no setting with five problems asked on both sides."


def unmatched(base: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    """Settings that only one side holds in runs that count: nothing was compared there."""
    held = []
    for frame in (base, new):
        rows = _usable(frame)[SETTING].drop_duplicates().to_dict("records")
        held.append(
            {
                tuple(str(value) for value in row.values()): setting.setting(row) + f", {row['source']}"
                for row in rows
            }
        )
    lines = []
    for name, mine, other in (("BASE", held[0], held[1]), ("NEW", held[1], held[0])):
        alone = [words for key, words in mine.items() if key not in other]
        more = f" and {len(alone) - 6} more" if len(alone) > 6 else ""
        lines += [f"Only in {name}, so not compared: {'; '.join(alone[:6])}{more}."] if alone else []
    return lines


def regressions(changes: list[Change]) -> list[Change]:
    """Holm: the smallest p-value against α/m, the next against α/(m−1), until one fails."""
    order = sorted(changes, key=lambda change: change.p_value)
    out = []
    for rank, change in enumerate(order):
        if change.p_value > ALPHA / (len(order) - rank):
            break
        out.append(change)
    return out


def status(changes: list[Change]) -> int:
    """1 for a regression, 0 for none, 2 where the data can't tell."""
    if regressions(changes):
        return 1
    return 0 if changes and all(change.telling for change in changes) else 2


def markdown(changes: list[Change], code: int, notes: Sequence[str] = ()) -> str:
    """The comparison for a pull request."""
    word = {0: "No regression", 1: "Regression", 2: "The data can't tell"}[code]
    bad = {id(change) for change in regressions(changes)}
    lines = [
        f"## {word}",
        "",
        "| | model | configuration | load | asked | budget | source | measure | base | new | change | gate | smallest change it could have seen | noise floor | n |",
    ]
    lines.append("|---|---|---|---|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for change in sorted(changes, key=lambda change: (id(change) not in bad, change.telling)):
        mark = "❌" if id(change) in bad else "✅" if change.telling else "❔"
        s = change.setting
        shown = [
            mark,
            s["model"],
            s["config"],
            s["load"],
            s["asked"],
            number(s["budget"], ",d"),
            s["source"],
            change.measure,
            *_values(change),
            change.n,
        ]
        lines.append("| " + " | ".join(str(cell) for cell in shown) + " |")
    lines += ["", *_legend(changes), *notes]
    return "\n".join(lines) + "\n"


def _values(change: Change) -> list[str]:
    if change.measure == "accuracy":
        low, high = (-(change.worse + side * 1.96 * change.error) for side in (1, -1))
        delta = f"{-change.worse * 100:+.1f} pt ({low * 100:+.1f} to {high * 100:+.1f})"
        limits = [
            f"−{change.gate * 100:g} pt",
            f"−{change.smallest_seen * 100:.1f} pt",
            _floor(change, " pt"),
        ]
        return [number(change.base, ".1%"), number(change.new, ".1%"), delta, *limits]
    t = float(stats.t.ppf(0.975, change.freedom))
    low, high = (np.expm1(change.worse + side * t * change.error) for side in (-1, 1))
    delta = f"{np.expm1(change.worse) * 100:+.1f} % ({low * 100:+.1f} to {high * 100:+.1f})"
    limits = [f"+{change.gate * 100:g} %", f"+{change.smallest_seen * 100:.1f} %", _floor(change, " %")]
    return [number(change.base, ".4g"), number(change.new, ".4g"), delta, *limits]


def _floor(change: Change, unit: str) -> str:
    return f"{change.floor * 100:.1f}{unit}" if np.isfinite(change.floor) else "unknown"


def _legend(changes: list[Change]) -> list[str]:
    lines = [
        (
            "Latency: mean seconds sent to last token of successes. Cost: GPU-seconds a request. Accuracy: right / all requests. "
            "Paired by problem; change with its 95 % interval. ❌ worse than the gate (one-sided 95 %, Holm over all rows), "
            "✅ sound, ❔ a change of twice the gate could have been missed."
        )
    ]
    failing = {
        (c.setting["model"], c.setting["config"], c.setting["budget"]): c.lost
        for c in changes
        if c.lost > LOST
    }
    lines += [
        f"NEW failed {number(share, '.1%')} of requests more than BASE at {model} {config} {number(budget, ',d')}: "
        "latency and cost of the survivors tell nothing there."
        for (model, config, budget), share in failing.items()
    ]
    if any(not np.isfinite(change.floor) for change in changes):
        lines.append(
            "Noise floor unknown where no setting was run twice: the intervals hold the problems' noise only."
        )
    return lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `compare`."""
    parser.add_argument(
        "base", type=Path, help="results before; several runs of a setting are its noise floor"
    )
    parser.add_argument("new", type=Path, help="results after")
    parser.add_argument(
        "--gate",
        default=DEFAULT_GATE,
        metavar="LIMITS",
        help="default: %(default)s".replace("3%,", "3%%,").replace('3%"', '3%%"'),
    )
    parser.add_argument("--out", type=Path, help="also write the Markdown to this file")
    parser.epilog = "example: python -m analysis compare results/main results/branch --gate latency=3%,accuracy=1pt --out comparison.md"


def main(args: argparse.Namespace) -> int:
    """Compare, print Markdown on stderr, one JSON line on stdout."""
    gate = parse_gate(args.gate)
    base, new = (read_study(path).frame for path in (args.base, args.new))
    changes = compare(base, new, gate)
    code, notes = status(changes), unmatched(base, new)
    text = markdown(changes, code, notes) if changes else "\n".join([NOTHING, "", *notes]) + "\n"
    if args.out:
        try:
            args.out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--out {args.out}: {error.strerror}; name a file that can be written"
            ) from error
    print(text, file=sys.stderr)
    print(
        json.dumps(
            {
                "exit": code,
                "regressions": [_brief(c) for c in regressions(changes)],
                "changes": [_brief(c) for c in changes],
                "notes": notes,
            }
        )
    )
    return code


def _brief(change: Change) -> dict[str, Any]:
    worse = change.worse if change.measure == "accuracy" else float(np.expm1(change.worse))
    values = {
        "measure": change.measure,
        "gate": change.gate,
        "base": change.base,
        "new": change.new,
        "worse_by": worse,
    }
    values |= {
        "smallest_seen": change.smallest_seen,
        "noise_floor": change.floor,
        "n": change.n,
        "telling": change.telling,
    }
    return {name: plain(value) for name, value in (change.setting | values).items()}
