"""`python -m analysis recommend RESULTS --min-accuracy 0.8 --max-e2e-p95 30`: what to deploy, in plain words.

Rules: the answer names a model, a configuration and a budget, says what it gives and costs, who comes second, and what it
would cost to ask for more. Where nothing qualifies it says what comes nearest and how far off that is. Wishes are met by
estimates; where the 95 % interval reaches beyond a wish, it says so.

Does not know: how the numbers were computed (tables.py), HTML.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.data.frame import read_study
from analysis.data.setting import setting
from analysis.errors import InputError
from analysis.format import number, plain, records
from analysis.tables import optima, summary
from analysis.tables.optima import MEASURES

Row = dict[str, Any]
P95 = "e2e_p95_all_s"
"""The percentile a wish is held against: over all requests, a failure slower than any answer."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What is asked for."""

    min_accuracy: float | None = None
    max_e2e_p95_s: float | None = None
    objective: str = "cost"


@dataclass(slots=True)
class Recommendation:
    """What to deploy, or what comes nearest, and the sentences that say it."""

    best: Row | None
    second: Row | None = None
    nearest: list[Row] = field(default_factory=list)
    headline: str = ""
    sentences: list[str] = field(default_factory=list)


def recommend(table: pd.DataFrame, wish: Requirements) -> Recommendation:
    """The best setting for a wish."""
    known = optima.candidates(table)
    if known.empty:
        return Recommendation(None, headline=_nothing_known(table))
    if wish.objective == "energy" and known["cost_of_pass_j"].isna().all():
        return Recommendation(None, headline="Nothing can be recommended by energy: no run measured it.")
    fit = known[_fits(known, wish)]
    if fit.empty:
        return _nearest(known, wish)
    order = records(optima.ranked(fit, wish.objective))
    best = order[0]
    others = [row for row in order[1:] if (row["model"], row["config"]) != (best["model"], best["config"])]
    second = next(iter(others or order[1:]), None)
    found = Recommendation(best, second, headline=f"Deploy {setting(best)}.")
    found.sentences = [_why(wish, len(fit), len(known)), gives(best), *_doubts(best, wish)]
    if second is not None:
        found.sentences.append(_second(best, second, wish.objective, fit))
    found.sentences += _stricter(best, known, wish)
    return found


def _nothing_known(table: pd.DataFrame) -> str:
    if table.empty:
        return "Nothing can be recommended: these results hold no requests."
    if (table["judged"] == "INVALID").all():
        return "Nothing can be recommended: every run judged itself INVALID."
    if table["accuracy"].isna().all():
        return "Nothing can be recommended: no answer was graded."
    if not table["accuracy"].gt(0).any():
        return "Nothing can be recommended: no answer is right."
    return "Nothing can be recommended: no setting is both graded and timed in a run that counts."


def _fits(known: pd.DataFrame, wish: Requirements) -> pd.Series:
    fit = pd.Series(data=True, index=known.index)
    if wish.min_accuracy is not None:
        fit &= known["accuracy"] >= wish.min_accuracy
    if wish.max_e2e_p95_s is not None:
        fit &= known[P95] <= wish.max_e2e_p95_s
    return fit


def gives(row: Row) -> str:
    """What a setting gives and costs."""
    p95: str = (
        f", 95 % of answers within {number(row['e2e_p95_s'], '.3g')} s" if pd.notna(row["e2e_p95_s"]) else ""
    )
    failed: str = f"; {row['failed']} of {row['n']} requests failed" if row["failed"] else ""
    energy: str = f" and {number(row['cost_of_pass_j'], '.3g')} J" if pd.notna(row["cost_of_pass_j"]) else ""
    return (
        f"It answers {number(row['accuracy'], '.1%')} right (95 % interval {number(row['accuracy_low'], '.1%')} to "
        f"{number(row['accuracy_high'], '.1%')}), half within {number(row['e2e_p50_s'], '.3g')} s{p95}{failed}; a right answer costs "
        f"{number(row['cost_of_pass_gpu_s'], '.3g')} GPU-seconds (${number(row['cost_of_pass_usd'] * 1000, '.3g')} per 1,000){energy}. "
        f"These numbers are {row['source']}; the run is {row['run_verdict']}."
    )


def _why(wish: Requirements, fitting: int, known: int) -> str:
    asked = _asked(wish)
    least = {
        "cost": "costs least per right answer",
        "latency": "is fastest",
        "energy": "needs least energy per right answer",
    }
    among = f"Of the {fitting} of {known} settings that {asked}" if asked else f"Of {known} settings"
    return f"{among} it {least[wish.objective]}."


def _asked(wish: Requirements) -> str:
    parts = []
    if wish.min_accuracy is not None:
        parts.append(f"reach {number(wish.min_accuracy, '.1%')} accuracy")
    if wish.max_e2e_p95_s is not None:
        parts.append(f"answer 95 % of requests within {wish.max_e2e_p95_s:g} s")
    return " and ".join(parts)


def _doubts(best: Row, wish: Requirements) -> list[str]:
    doubts = []
    if wish.min_accuracy is not None and best["accuracy_low"] < wish.min_accuracy:
        doubts.append(
            f"With {best['n']} requests the accuracy could be as low as {number(best['accuracy_low'], '.1%')}: ask more "
            "problems to be sure of the wish."
        )
    high = best[f"{P95}_high"]
    if wish.max_e2e_p95_s is not None and not high <= wish.max_e2e_p95_s:
        could: str = (
            f"could be {number(high, '.3g')} s"
            if pd.notna(high)
            else "has no upper bound at this sample (72 are needed)"
        )
        doubts.append(f"Its p95 {could}.")
    return doubts


def _second(best: Row, second: Row, objective: str, fit: pd.DataFrame) -> str:
    name = optima.measure(objective, fit)
    ratio = _over(second[name], best[name]) - 1
    words = {
        "cost": "dearer per right answer",
        "latency": "slower",
        "energy": "more energy per right answer",
    }[objective]
    points = (second["accuracy"] - best["accuracy"]) * 100
    return f"Runner-up: {setting(second)}, {number(ratio, '.0%')} {words}, {_points(points)}."


def _points(points: float) -> str:
    return f"{points:+.1f} points of accuracy" if abs(points) >= 0.05 else "with the same accuracy"


def _stricter(best: Row, known: pd.DataFrame, wish: Requirements) -> list[str]:
    """What more accuracy, and less latency, would cost."""
    out = []
    limit = Requirements(None, wish.max_e2e_p95_s, wish.objective)
    allowed = known[_fits(known, limit)]
    better = allowed[allowed["accuracy"] > best["accuracy"]]
    if len(better):
        row = records(optima.ranked(better, "cost"))[0]
        gain = (row["accuracy"] - best["accuracy"]) * 100
        out.append(
            f"Being stricter on accuracy: {gain:.1f} points more take {setting(row)}, {_price(best, row)}."
        )
    else:
        out.append(
            "Being stricter on accuracy: nothing measured is more accurate"
            + (" within the latency asked." if wish.max_e2e_p95_s else ".")
        )
    target = wish.min_accuracy if wish.min_accuracy is not None else best["accuracy"]
    faster = known[(known["accuracy"] >= target) & (known["e2e_p50_s"] < best["e2e_p50_s"])]
    if len(faster):
        row = records(faster.sort_values("e2e_p50_s"))[0]
        out.append(
            f"Being stricter on latency: the fastest that is accurate enough is {setting(row)}, {_price(best, row)}."
        )
    else:
        out.append("Being stricter on latency: nothing as accurate as asked is faster.")
    return out


def _over(top: float, bottom: float) -> float:
    """A ratio, NaN where a hand-made run took no time or cost nothing."""
    return top / bottom if bottom else float("nan")


def _price(best: Row, row: Row) -> str:
    cost, time = (_over(row[name], best[name]) for name in ("cost_of_pass_gpu_s", "e2e_p50_s"))
    return f"at {number(cost, '.2g')} times the cost per right answer and {number(time, '.2g')} times the median latency"


def _nearest(known: pd.DataFrame, wish: Requirements) -> Recommendation:
    """Nothing qualifies: the most accurate within the latency, the fastest of the accurate ones, else the extremes."""
    found = Recommendation(None, headline=f"No setting measured here can {_asked(wish)}.")
    fast = known[_fits(known, Requirements(None, wish.max_e2e_p95_s))]
    accurate = known[_fits(known, Requirements(wish.min_accuracy)) & known[P95].notna()]
    if wish.min_accuracy is not None:
        _add_most_accurate(
            found, fast if len(fast) else known, wish, "within the latency asked" if len(fast) else "of all"
        )
    if wish.max_e2e_p95_s is not None and known[P95].isna().all():
        found.sentences.append(f"No p95 is known: it takes {summary.SMALLEST_P95} requests a setting.")
    elif wish.max_e2e_p95_s is not None:
        timed = accurate if len(accurate) else known[known[P95].notna()]
        _add_fastest(found, timed, wish, "that is accurate enough" if len(accurate) else "of all")
    return found


def _add_most_accurate(found: Recommendation, among: pd.DataFrame, wish: Requirements, where: str) -> None:
    row = records(among.sort_values(["accuracy", "e2e_p50_s"], ascending=[False, True]))[0]
    short = ((wish.min_accuracy or 0.0) - row["accuracy"]) * 100
    gap = f"{short:.1f} points short" if short > 0 else "accurate enough"
    found.nearest.append(row)
    found.sentences.append(f"Most accurate {where}: {setting(row)}, {gap}. {gives(row)}")


def _add_fastest(found: Recommendation, among: pd.DataFrame, wish: Requirements, where: str) -> None:
    row = records(among.sort_values([P95, "e2e_p50_s"]))[0]
    over = row[P95] - (wish.max_e2e_p95_s or 0.0)
    gap = (
        "more than 5 % of its requests fail"
        if row[P95] == float("inf")
        else f"{number(over, '.3g')} s too slow at p95"
        if over > 0
        else "fast enough"
    )
    found.nearest.append(row)
    found.sentences.append(f"Fastest {where}: {setting(row)}, {gap}. {gives(row)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `recommend`."""
    parser.add_argument("results", type=Path)
    parser.add_argument("--min-accuracy", type=float, metavar="SHARE", help="0.8 for 80 %%")
    parser.add_argument("--max-e2e-p95", type=float, metavar="SECONDS")
    parser.add_argument(
        "--price-per-gpu-hour", type=float, default=3.5, metavar="USD", help="default: %(default)s, assumed"
    )
    parser.add_argument(
        "--objective", choices=list(MEASURES), default="cost", help="what is least among what qualifies"
    )
    parser.epilog = (
        "example: python -m analysis recommend results --min-accuracy 0.8 --max-e2e-p95 30 --objective cost"
    )


def main(args: argparse.Namespace) -> int:
    """Say what to deploy; exit 1 when nothing qualifies."""
    if args.min_accuracy is not None and not 0 <= args.min_accuracy <= 1:
        raise InputError(f"--min-accuracy {args.min_accuracy:g}: a share between 0 and 1 (0.8 for 80 %)")
    if args.max_e2e_p95 is not None and not args.max_e2e_p95 > 0:
        raise InputError(f"--max-e2e-p95 {args.max_e2e_p95:g}: seconds, above 0")
    check_price(args.price_per_gpu_hour)
    study = read_study(args.results)
    table = summary.summary(study.frame, args.price_per_gpu_hour)
    found = recommend(table, Requirements(args.min_accuracy, args.max_e2e_p95, args.objective))
    print(found.headline, *found.sentences, sep="\n", file=sys.stderr)
    print(
        json.dumps(
            {
                "qualifies": found.best is not None,
                "deploy": brief(found.best),
                "runner_up": brief(found.second),
                "nearest": [brief(row) for row in found.nearest],
                "words": " ".join([found.headline, *found.sentences]),
            }
        )
    )
    return 0 if found.best is not None else 1


def check_price(usd: float) -> None:
    """Raises InputError for a price that is none."""
    if not 0 <= usd < float("inf"):
        raise InputError(f"--price-per-gpu-hour {usd:g}: dollars, 0 or more")


BRIEF = (
    "model",
    "config",
    "load",
    "asked",
    "budget",
    "budget_mode",
    "source",
    "run_verdict",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "e2e_p50_s",
    "e2e_p95_s",
    "cost_of_pass_gpu_s",
    "cost_of_pass_usd",
    "cost_of_pass_j",
)


def brief(row: Row | None) -> Row | None:
    """A setting for machines."""
    return None if row is None else {name: plain(row[name]) for name in BRIEF}
