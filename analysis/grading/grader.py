"""Grade pairs of reference answer and answer: with `equivalence`, and with SymPy in separate processes for integrals and limits.

Rules: each distinct pair is graded once, and its grade is cached on disk under a hash of this package's source. A pair that can be
shown neither equal nor different is `undecided`, one that exceeds the time limit is `grade_timeout` and a crash is `grade_error`; none
of them is `wrong`. math-verify only parses; SymPy accepts an equality only if the difference is zero symbolically. A process that
runs longer than the time limit is killed, and each has a memory limit.

This module does not know outputs, records or budgets.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import multiprocessing
import os
import re
import resource
import signal
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pebble import ProcessPool

from analysis.grading.equivalence import equivalent
from analysis.grading.normalize import normalize
from analysis.grading.numbers import OutOfTimeError, time_limit

Grade = Literal["correct", "wrong", "undecided", "grade_timeout", "grade_error"]
Pair = tuple[str, str]
"""Reference answer and answer, before normalization."""

MAX_CHARACTERS = 2_000
"""A longer text is not read: it is correct if both texts are the same, and undecided otherwise."""
COMPARE_TIMEOUT_S = 1.5
"""Limit of the processor time for a pair, here and in a separate process."""
PARSE_TIMEOUT_S = 8
"""math-verify's own time limit for parsing. It is wall-clock time, so it must be long on a busy machine."""
KILL_TIMEOUT_S = 10
"""After this time a process is killed, if its processor time could not end it."""
MEMORY_BYTES = 500 << 20
WORKERS = min(2, os.cpu_count() or 1)
TASKS_PER_PROCESS = 500
_CALCULUS = re.compile(r"\\(?:int|sum|prod|lim)(?![a-zA-Z])")
"""What math-verify is asked about. Everything else that `equivalence` cannot read is undecided."""


@functools.cache
def version() -> str:
    """Hash of what determines a grade: this package's source and tables, and the version of math-verify."""
    digest = hashlib.sha256(importlib.metadata.version("math-verify").encode())
    for path in sorted(Path(__file__).parent.glob("*.[pt]*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def grade_pairs(pairs: Iterable[Pair], *, cache: Path | None = None) -> dict[Pair, Grade]:
    """Grade every distinct pair. `cache` is the file that keeps grades between calls; with None, nothing is kept."""
    distinct = set(pairs)
    with contextlib.closing(_opened(cache)) as database:
        cached = _read(database, distinct)
        new = {pair: compare(*pair) for pair in distinct - cached.keys()}
        new |= _verify_all([pair for pair, grade in new.items() if grade == "undecided" and is_calculus(pair)])
        _write(database, new)
    return cached | new


def compare(gold: str, answer: str) -> Grade:
    """Grade one pair in this process."""
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return "correct" if gold.strip() == answer.strip() else "undecided"
    try:
        with time_limit(COMPARE_TIMEOUT_S):
            same = equivalent(gold, answer)
    except OutOfTimeError:
        return "grade_timeout"
    return "undecided" if same is None else "correct" if same else "wrong"


def is_calculus(pair: Pair) -> bool:
    """True if SymPy may be able to compare a pair that `equivalence` could not."""
    return max(map(len, pair)) <= MAX_CHARACTERS and any(_CALCULUS.search(text) for text in pair)


def _verify_all(pairs: Collection[Pair]) -> Iterator[tuple[Pair, Grade]]:
    """Grade pairs with math-verify, in processes that are killed after a time limit."""
    if not pairs:
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["analysis.grading.grader", "math_verify"])
    with ProcessPool(
        max_workers=min(WORKERS, len(pairs)), max_tasks=TASKS_PER_PROCESS, context=context, initializer=start_worker
    ) as pool:
        futures = [(pair, pool.schedule(verify_in_time, args=pair, timeout=KILL_TIMEOUT_S)) for pair in sorted(pairs)]
        for pair, future in futures:
            try:
                yield pair, future.result()
            except TimeoutError:
                yield pair, "grade_timeout"
            except Exception as error:  # noqa: BLE001  # a worker process may return any exception
                logging.getLogger(__name__).debug("%s: %r", pair, error)
                yield pair, "grade_error"


def start_worker() -> None:
    """Prepare a new worker process: parse once, because the first parse takes a hundred times as long, and set its memory limit."""
    with contextlib.suppress(Exception):
        verify(r"\frac{1}{2}", r"\int_0^1 x dx")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGVTALRM, _out_of_time)


def _out_of_time(*_: object) -> None:
    raise OutOfTimeError


def verify_in_time(gold: str, answer: str) -> Grade:
    """Grade one pair with `verify`, within a limit of processor time. The signal is repeated, because SymPy may catch it."""
    signal.setitimer(signal.ITIMER_VIRTUAL, COMPARE_TIMEOUT_S, 0.05)
    try:
        return verify(gold, answer)
    except OutOfTimeError:
        return "grade_timeout"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def verify(gold: str, answer: str) -> Grade:
    """Compare the values of a pair with SymPy. They are equal only if their difference is shown to be zero, never by rounding."""
    values = [_sympy_value(normalize(text)) for text in (gold, answer)]
    same = None if None in values else (values[0] - values[1]).doit().equals(0)
    return "undecided" if same is None else "correct" if same else "wrong"


def _sympy_value(text: str) -> Any:
    """Return the SymPy expression for a text, or None if math-verify cannot parse all of it as an exact value."""
    from math_verify import parse  # noqa: PLC0415
    from math_verify.parser import LatexExtractionConfig  # noqa: PLC0415
    from sympy import Expr, Float  # noqa: PLC0415

    parsed = parse(
        rf"\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(boxed_match_priority=0)],
        fallback_mode="no_fallback",
        parsing_timeout=PARSE_TIMEOUT_S,
        raise_on_error=True,
    )
    is_exact = parsed and isinstance(parsed[0], Expr) and not parsed[0].has(Float)
    return parsed[0] if is_exact and _is_complete(parsed[0], text) else None


def _is_complete(parsed: object, text: str) -> bool:
    """True if the parsed expression has every integer of the text. The parser may stop early without an error."""
    atoms = {atom.lstrip("0") for atom in re.findall(r"\d+", str(parsed))}
    return all(number.lstrip("0") in atoms for number in re.findall(r"\d+", text))


def _opened(path: Path | None) -> sqlite3.Connection:
    """Open the file of cached grades, or an empty database in memory if there is no file or it cannot be used."""
    with contextlib.suppress(OSError, sqlite3.Error):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path or ":memory:", timeout=10)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS verdict (version TEXT, gold TEXT, answer TEXT, verdict TEXT,"
            " PRIMARY KEY (version, gold, answer)) WITHOUT ROWID"
        )
        return connection
    return _opened(None)


def _read(cache: sqlite3.Connection, pairs: set[Pair]) -> dict[Pair, Grade]:
    """Return the grades of those pairs that this version of the grader has cached."""
    query = "SELECT verdict FROM verdict WHERE version = ? AND gold = ? AND answer = ?"
    with contextlib.suppress(sqlite3.Error):
        found = ((pair, cache.execute(query, (version(), *pair)).fetchone()) for pair in pairs)
        return {pair: row[0] for pair, row in found if row}
    return {}


def _write(cache: sqlite3.Connection, grades: dict[Pair, Grade]) -> None:
    """Add grades. Crashes are not kept, because the machine may have caused them."""
    rows = [(version(), *pair, grade) for pair, grade in grades.items() if grade != "grade_error"]
    with contextlib.suppress(sqlite3.Error), cache:
        cache.execute("DELETE FROM verdict WHERE version != ?", (version(),))
        cache.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?)", rows)
