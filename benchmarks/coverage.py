"""How often the intervals contain the true value: `python -m benchmarks.coverage [--studies 600]`.

Every row simulates studies in which the true value is known, and computes the interval with the suite's own functions. *given*
is the share of studies that get an interval, *covers* the share of these that contains the true value; where more than 5 % of
all studies print an interval that is wrong, the row is marked. docs/analysis.md contains this table.

Loads: *one at a time* has independent requests. In *closed* loads the pace of the server changes slowly (autoregressive, over
about 10 or 50 requests), and every request of that time feels it. In *open* loads requests wait in a queue before eight servers,
which are busy for the given share of the time. The true percentile of dependent requests comes from a million of them.

This module does not know real servers: `docs/measurements.md` has what was measured on them.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pandas as pd

from analysis import noise, stats
from analysis.data.setting import CONDITIONS
from analysis.stats import Floats, Interval
from analysis.tables.choice import choose
from analysis.tables.summary import named
from loadgen.measure.dependence import Load, share_interval

SIGMA = 0.8
SLOTS = 8
MOST_WRONG = 0.07
"""Above this share of all studies with a wrong interval a row is marked: 5 %, and what 600 studies can deviate by chance."""


def row(intervals: list[Interval], truth: float, *words: object) -> str:
    """One line of the table, from the intervals of all studies and the true value. `words` are its first five cells."""
    given = [one for one in intervals if np.isfinite(one.low)]
    inside = [not one.low > truth and not one.high < truth for one in given]  # no upper bound is an infinite one
    share, covers = len(given) / len(intervals), float(np.mean(inside)) if inside else math.nan
    mark = "✗" if share * (1 - covers) > MOST_WRONG else ""
    rate = "–" if math.isnan(covers) else f"{covers:.0%}"
    return f"| {' | '.join(map(str, words))} | {share:.0%} | {rate} | {mark} |"


def independent(rng: np.random.Generator, studies: int, n: int) -> Floats:
    """Log-normal latencies of requests that do not depend on each other."""
    return rng.lognormal(0, SIGMA, (studies, n))


def pace(rng: np.random.Generator, studies: int, n: int, phi: float) -> Floats:
    """Latencies on a server whose pace is autoregressive; the correlation of neighbours is `phi`."""
    step = rng.normal(0, 0.3 * math.sqrt(1 - phi**2), (studies, n))
    level, levels = rng.normal(0, 0.3, studies), np.empty((studies, n))
    for index in range(n):
        level = phi * level + step[:, index]
        levels[:, index] = level
    return rng.lognormal(0, 0.5, (studies, n)) * np.exp(levels)


def queue(rng: np.random.Generator, studies: int, n: int, busy: float) -> Floats:
    """Latencies, waiting included, of requests that arrive at random before SLOTS servers; the queue has formed before."""
    mean_s, begin = math.exp(SIGMA**2 / 2), 2000
    work, each, out = np.zeros((studies, SLOTS)), np.arange(studies), np.empty((studies, n))
    for index in range(begin + n):
        work = np.maximum(work - rng.exponential(mean_s / SLOTS / busy, studies)[:, None], 0)
        free = work.argmin(axis=1)
        work[each, free] += rng.lognormal(0, SIGMA, studies)
        if index >= begin:
            out[:, index - begin] = work[each, free]
    return out


Draw = Callable[[np.random.Generator, int, int], Floats]
LOADS: dict[str, tuple[Load, Draw]] = {
    "one at a time": ("alone", independent),
    "closed, short waves": ("closed", partial(pace, phi=0.9)),
    "closed, long waves": ("closed", partial(pace, phi=0.98)),
    "open, 50 % busy": ("open", partial(queue, busy=0.5)),
    "open, 70 % busy": ("open", partial(queue, busy=0.7)),
    "open, 90 % busy": ("open", partial(queue, busy=0.9)),
}


def latencies(studies: int, name: str) -> Iterator[str]:
    """Percentiles and goodput under one load."""
    load, draw = LOADS[name]
    long = draw(np.random.default_rng(1), 200, 5000)
    rng = np.random.default_rng(2)
    shape = "log-normal 0.8" if draw is independent or load == "open" else "log-normal 0.5 × pace"
    blocks = "order statistics" if load == "alone" else "blocks of time"
    for n in (100, 500, 2000):
        runs = draw(rng, studies, n)
        for p in (0.5, 0.95):
            found = [stats.percentile(run, p, load) for run in runs]
            yield row(found, float(np.quantile(long, p)), f"p{p * 100:.0f}", blocks, n, shape, name)
        slo = float(np.quantile(long, 0.8))
        bounds = [share_interval((run <= slo).tolist(), load, run.tolist()) for run in runs]
        shares = [stats.NOTHING if one is None else Interval(math.nan, *one) for one in bounds]
        yield row(shares, 0.8, "goodput", "Wilson, effective n", n, shape, name)


def ratios(studies: int) -> Iterator[str]:
    """Means, speed-ups and costs of correct answers, over problems."""
    rng = np.random.default_rng(3)
    for sigma in (0.2, 0.5, 1.0):
        mean = math.exp(2 + sigma**2 / 2)
        for n in (5, 10, 20, 40, 100, 500):
            base = rng.lognormal(2, sigma, (studies, n))
            new = base / 1.5 * rng.lognormal(-0.02, 0.2, (studies, n))
            correct = (rng.random((studies, n)) < 0.6).astype(float)
            pairs = {
                "mean": ([stats.mean(row) for row in base], mean),
                "speed-up": ([stats.ratio(*row) for row in zip(base, new, strict=True)], 1.5),
                "cost of pass": ([stats.ratio(*row) for row in zip(base, correct, strict=True)], mean / 0.6),
                "variation": ([stats.variation(row) for row in base], math.sqrt(math.exp(sigma**2) - 1)),
            }
            for name, (found, truth) in pairs.items():
                method = "jackknife, log t" if name == "variation" else "log t"
                shape = f"log-normal {sigma:g}"
                yield row(found, truth, name, method, n, shape, "problems")


def shares(studies: int) -> Iterator[str]:
    """Accuracies, with and without several samples of a problem, their differences, and percentiles of samples."""
    rng = np.random.default_rng(4)
    for share in (0.8, 0.98):
        for n in (42, 500):
            found = [stats.proportion(int(k), n) for k in rng.binomial(n, share, studies)]
            yield row(found, share, "accuracy", "Wilson", n, f"share {share}", "problems")
            a = share * 2.0
            chances = rng.beta(a, 2.0 - a, (studies, n))  # most problems are nearly always right or wrong
            means = rng.binomial(8, chances) / 8
            found = [stats.proportion_of_units(row, 8 * n) for row in means]
            label = f"share {share}, by problem"
            yield row(found, share, "accuracy", "Wilson, effective n", f"{n} × 8", label, "samples")
    for lost, gained in ((0.04, 0.03), (0.02, 0.0)):
        first = np.ones((studies, 500))
        kind = rng.random((studies, 500))
        first[kind < gained] = 0.0
        second = np.where(kind < gained, 1.0, np.where(kind < gained + lost, 0.0, first))
        truth, label = gained - lost, f"−{lost:g} +{gained:g}"
        found = [stats.mcnemar(*row).difference for row in zip(first, second, strict=True)]
        yield row(found, truth, "accuracy change", "Bonett and Price", "500", label, "problems")
        found = [stats.change(b - a) for a, b in zip(first, second, strict=True)]
        yield row(found, truth, "accuracy change", "t, one more pair", "500", label, "problems")
    units = np.repeat(np.arange(60), 8)
    hard = np.repeat(rng.normal(0, 0.7, (studies, 60)), 8, axis=1)
    runs = np.exp(hard + rng.normal(0, 0.4, hard.shape))
    found = [stats.percentile(run, 0.5, "alone", units) for run in runs]
    yield row(found, 1.0, "p50", "clusters of samples", "60 × 8", "log-normal", "samples")


def runs(studies: int) -> Iterator[str]:
    """Speed-ups of 1 between runs that differ by 2 %, with one run each, with three, and without allowing for it."""
    rng = np.random.default_rng(5)
    for count, allowed in ((1, 0.0), (1, 0.02), (3, 0.02)):
        found = []
        for _ in range(studies):
            hard = rng.lognormal(2, 0.6, 200)
            sides = [
                [hard * math.exp(rng.normal(0, 0.02)) * rng.lognormal(0, 0.02, 200) for _ in range(count)]
                for _ in range(2)
            ]
            effect = noise.effect(
                *stats.log_ratio(np.mean(sides[0], axis=0), np.mean(sides[1], axis=0)),
                tuple(noise.Runs(count, noise.deviation([float(run.mean()) for run in side])) for side in sides),  # type: ignore[arg-type]
                allowed,
            )
            found.append(effect.interval())
        method = "log t, runs" if count > 1 else f"log t, noise {allowed:.0%}"
        yield row(found, 1.0, "speed-up", method, f"200, {count} run(s)", "runs differ by 2 %", "problems")


def best_of_ten(studies: int) -> Iterator[str]:
    """The cost of a correct answer of the cheapest of ten settings that are equal, each asked other problems of the same kind."""
    rng = np.random.default_rng(6)
    found, raw = [], []
    for study in range(studies // 4):
        cost, correct = rng.lognormal(2, 0.8, (10, 100)), (rng.random((10, 100)) < 0.6).astype(float)
        each = [stats.ratio(*setting) for setting in zip(cost, correct, strict=True)]
        fit = pd.DataFrame([named("cost_of_pass_gpu_s", one) for one in each])
        fit = fit.assign(model="m", config=list("abcdefghij"), **dict.fromkeys(CONDITIONS, "x"))
        choice = choose(fit, None, "cost_of_pass_gpu_s", 0.0, study)
        found.append(choice.interval(choice.best))
        raw.append(each[choice.best])
    truth = math.exp(2 + 0.8**2 / 2) / 0.6
    for name, intervals in (("as measured", raw), ("corrected", found)):
        bias = np.mean([one.estimate for one in intervals]) / truth - 1
        label = f"mean error {bias:+.0%}"
        yield row(intervals, truth, "cost of the best of ten", name, "100", label, "equal settings")


def one_job(job: tuple[str, int]) -> list[str]:
    """The rows of one part of the table."""
    name, studies = job
    parts = {"ratios": ratios, "shares": shares, "runs": runs, "best": best_of_ten}
    return list(parts[name](studies) if name in parts else latencies(studies, name))


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=600)
    args = parser.parse_args(argv)
    jobs = [(name, args.studies) for name in (*LOADS, "ratios", "shares", "runs", "best")]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        print("| estimate | method | n | distribution | load or unit | given | covers | |")
        print("|---|---|--:|---|---|--:|--:|---|")
        for lines in pool.map(one_job, jobs):
            print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
