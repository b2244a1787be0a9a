r"""Measures the grader: seconds for many answers, without and with cached grades, and the costliest pairs one by one.

`python -m benchmarks.grading PROBLEMS.jsonl`. The file has `answer` and `solution` in each line, as MATH-500 has. Each reference answer is
written in five ways (2,500 answers for 500 problems) and graded as at the end of a run. The costly pairs are fractions and
roots nested deeply, towers of powers, numbers of 400 digits, long lists and integrals. Each runs in a process of its own, whose processor
time and largest memory are printed. The last line is JSON.
"""

import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from analysis.grading.extract import last_box
from analysis.grading.grader import Pair, compare, grade_pairs, is_calculus, start_worker, verify_in_time
from benchmarks.common import parser

WRITTEN = ("{0}", r"\textcolor{{red}}{{{0}}}", "{0}+{1}-{1}", r"\frac{{{0}}}{{1}}", r"{0} \text{{ or }} {0}")
MAX_COLD_S, MAX_CACHED_S, MAX_PAIR_S, MAX_MEMORY_MB = 10, 0.15, 2, 500


def costly_pairs() -> dict[str, Pair]:
    """Pairs that would take long, or much memory, if nothing limited the work."""
    fractions, roots = (r"\frac{1}{1+", r"\sqrt{2+")
    pairs = {
        "fractions nested 10,000 deep": (fractions * 10_000 + "1" + "}" * 10_000, "1"),
        "fractions nested 140 deep": (fractions * 140 + "1" + "}" * 140, r"\frac{\sqrt5-1}{2}"),
        "roots nested 40 deep": (roots * 40 + "2" + "}" * 40, "2"),
        "square root of 30 primes": ("+".join(rf"\sqrt{{{n}}}" for n in range(2, 60, 2)), "60"),
        "tower of powers": ("5", "9^{9^{9^{9}}}"),
        "equal towers of powers": ("9^{9^{9}}", "9^{9^{9}}+1"),
        "factorials": (r"\frac{1}{10000!}", r"\frac{1}{9999!}-\frac{1}{10000!}"),
        "binomials": (r"\binom{20000}{10000}", r"\frac{20000!}{10000!^2}"),
        "numbers of 400 digits": ("7" * 400, "7" * 399 + "8"),
        "roots of numbers of 400 digits": (rf"\sqrt{{{'7' * 400}}}+\sqrt{{3}}", rf"\sqrt{{{'7' * 399}8}}+\sqrt{{3}}"),
        "list of 150 roots": (
            ",".join(rf"\sqrt{n}" for n in range(150)),
            ",".join(rf"\sqrt{n}" for n in range(149, -1, -1)),
        ),
        "list of 500 numbers": (",".join(map(str, range(500))), ",".join(map(str, range(499, -1, -1)))),
        "open braces": ("5", "{" * 2_000),
        "open text commands": ("5", r"\text{" * 330),
        "digits and spaces": ("5", "1 " * 1_000),
    }
    return pairs | {
        "integral": (r"\frac{1}{2}", r"\int_0^1 x dx"),
        "hard integral": ("5", r"\int_0^1 e^{e^{x^{x^x}}} dx"),
    }


def _measure(pair: Pair) -> tuple[str, float, float]:
    """The grade, the seconds of processor time and the largest memory in MB; called in a new process."""
    if is_calculus(pair):
        start_worker()
    start = time.process_time()
    grade: str = verify_in_time(*pair) if is_calculus(pair) else compare(*pair)
    seconds = time.process_time() - start
    return grade, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def costs() -> list[dict[str, object]]:
    """Grade each costly pair in a new process."""
    rows = []
    for name, pair in costly_pairs().items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            grade, seconds, memory = pool.submit(_measure, pair).result()
        rows.append({"pair": name, "grade": grade, "seconds": round(seconds, 3), "memory_mb": round(memory)})
        print(f"{name:<32} {grade:<14} {seconds:7.3f} s {memory:6.0f} MB")
    return rows


def speed(path: Path) -> dict[str, float]:
    """Grade all references, each written in five ways, twice: the second time from the cache."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    pairs = [
        (row["answer"], written.format(last_box(row["solution"]) or row["answer"], number))
        for number, row in enumerate(rows)
        for written in WRITTEN
    ]
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(2):
            start = time.monotonic()
            grade_pairs(pairs, cache=Path(folder) / "grades.sqlite")
            seconds.append(time.monotonic() - start)
    print(f"{len(pairs)} answers: {seconds[0]:.2f} s, from the cache {seconds[1]:.3f} s")
    return {"answers": len(pairs), "cold_s": round(seconds[0], 3), "cached_s": round(seconds[1], 3)}


def main() -> None:
    """Print both tables, and whether the limits hold."""
    arguments = parser(__doc__)
    arguments.add_argument("problems", type=Path)
    measured = speed(arguments.parse_args().problems)
    rows = costs()
    holds = measured["cold_s"] <= MAX_COLD_S and measured["cached_s"] <= MAX_CACHED_S
    holds &= all(row["seconds"] <= MAX_PAIR_S and row["memory_mb"] <= MAX_MEMORY_MB for row in rows)  # type: ignore[operator]
    print(json.dumps({**measured, "pairs": rows, "within_limits": holds}))


if __name__ == "__main__":
    main()
