"""Grade pairs of reference answer and answer: with `equivalence` first, with math-verify in separate processes for the rest.

Rules: each distinct pair is graded once, and its grade is cached on disk under a hash of this package's source. A pair that exceeds
the time limit is `grade_timeout` and a crash is `grade_error`; neither is `wrong`. math-verify enforces its own time limit with
SIGALRM, which native code ignores, so a process that runs longer is killed. Each process has a memory limit.

This module does not know outputs, records or budgets.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import multiprocessing
import os
import re
import resource
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Literal, Self

from pebble import ProcessExpired, ProcessPool

from analysis.grading.equivalence import equivalent
from analysis.grading.normalize import normalize

Grade = Literal["correct", "wrong", "grade_timeout", "grade_error"]
Pair = tuple[str, str]
"""Reference answer and answer, before normalization."""

MATH_VERIFY_TIMEOUT_S = 8
"""math-verify's own time limit for parsing and for comparing."""
KILL_TIMEOUT_S = 13
"""Longer than math-verify's limit, and shorter than the 15 s that a pair may take."""
MEMORY_BYTES = 4 << 30
WORKERS = min(4, os.cpu_count() or 1)
TASKS_PER_PROCESS = 500
_WORDS = re.compile(r"\\text\{([^{}]*)\}")


def version() -> str:
    """Hash of what determines a grade: this package's source and the version of math-verify."""
    digest = hashlib.sha256(importlib.metadata.version("math-verify").encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def grade_pairs(pairs: Iterable[Pair], *, cache: Path | None = None) -> dict[Pair, Grade]:
    """Grade every distinct pair. `cache` is the file that keeps grades between calls; with None, nothing is kept."""
    distinct = set(pairs)
    with _Cache(cache) as grade_cache:
        cached = grade_cache.read(distinct)
        new: dict[Pair, Grade] = {}
        undecided: list[Pair] = []
        for pair in distinct - cached.keys():
            same = equivalent(*pair)
            if same is None:
                undecided.append(pair)
            else:
                new[pair] = "correct" if same else "wrong"
        new.update(_verify_all(undecided))
        grade_cache.write(new)
    return cached | new


def _verify_all(pairs: Collection[Pair]) -> Iterator[tuple[Pair, Grade]]:
    """Grade pairs with math-verify, in processes that are killed after a time limit."""
    if not pairs:
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["analysis.grading.grader", "math_verify"])
    with ProcessPool(
        max_workers=min(WORKERS, len(pairs)),
        max_tasks=TASKS_PER_PROCESS,
        context=context,
        initializer=_start_worker,
    ) as pool:
        futures = [(pair, pool.schedule(verify, args=pair, timeout=KILL_TIMEOUT_S)) for pair in sorted(pairs)]
        for pair, future in futures:
            try:
                yield pair, future.result()
            except FutureTimeoutError:
                yield pair, "grade_timeout"
            except (ProcessExpired, MemoryError, Exception) as error:  # noqa: BLE001  # a worker process may return any exception
                logging.getLogger(__name__).debug("%s: %r", pair, error)
                yield pair, "grade_error"


def _start_worker() -> None:
    """Prepare a new worker process: set its memory limit and parse once, because the first parse takes a hundred times as long."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(Exception):
        verify(r"\frac{1}{2}", r"\sum_{k=1}^{2} \frac{k}{6}")


def verify(gold: str, answer: str) -> Grade:
    """Grade one pair with math-verify, in the main thread. Raises what math-verify raises, except its timeout."""
    from math_verify import parse, verify  # noqa: PLC0415  # takes half a second, and only some pairs need it
    from math_verify.errors import TimeoutException  # noqa: PLC0415
    from math_verify.parser import LatexExtractionConfig  # noqa: PLC0415

    gold, answer = normalize(gold), normalize(answer)
    if _has_new_words(gold, answer):
        return "wrong"
    latex = [LatexExtractionConfig(boxed_match_priority=0)]
    try:
        reference, parsed_answer = (
            parse(
                rf"\boxed{{{text}}}",
                extraction_config=latex,
                fallback_mode="no_fallback",
                parsing_timeout=MATH_VERIFY_TIMEOUT_S,
                raise_on_error=True,
            )
            for text in (gold, answer)
        )
        if (
            not reference
            or not parsed_answer
            or not (_is_complete(reference[0], gold) and _is_complete(parsed_answer[0], answer))
        ):
            return "wrong"
        is_correct = verify(
            reference,
            parsed_answer,
            allow_set_relation_comp=True,
            timeout_seconds=MATH_VERIFY_TIMEOUT_S,
            raise_on_error=True,
        )
    except TimeoutException:
        return "grade_timeout"
    return "correct" if is_correct else "wrong"


def _has_new_words(gold: str, answer: str) -> bool:
    """True if the answer has words that the reference does not have. math-verify would drop `less` or `profit` as units."""
    return bool({*_WORDS.findall(answer.casefold())} - {*_WORDS.findall(gold.casefold())})


def _is_complete(parsed: object, text: str) -> bool:
    """True if the parsed expression has every integer of the text. The parser may stop early without an error."""
    atoms = re.findall(r"\d+", str(parsed))
    return all(
        number.lstrip("0") in {a.lstrip("0") for a in atoms}
        for number in re.findall(r"(?<![\d.])\d+(?![\d.])", text)
    )


class _Cache:
    """Grades on disk, from this version of the grader only. If the file cannot be used, grading works without it."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.version = version()
        self.connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            with contextlib.suppress(OSError, sqlite3.Error):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.connection = sqlite3.connect(self.path, timeout=10)
                self.connection.execute(
                    "CREATE TABLE IF NOT EXISTS verdict (version TEXT, gold TEXT, answer TEXT, verdict TEXT,"
                    " PRIMARY KEY (version, gold, answer)) WITHOUT ROWID"
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self.connection is not None:
            self.connection.close()

    def read(self, pairs: set[Pair]) -> dict[Pair, Grade]:
        """The grades of those pairs that are in the cache."""
        if self.connection is None:
            return {}
        query = "SELECT verdict FROM verdict WHERE version = ? AND gold = ? AND answer = ?"
        with contextlib.suppress(sqlite3.Error):
            found = {pair: self.connection.execute(query, (self.version, *pair)).fetchone() for pair in pairs}
            return {pair: row[0] for pair, row in found.items() if row}
        return {}

    def write(self, grades: dict[Pair, Grade]) -> None:
        """Add grades. Crashes are not kept, because the machine may have caused them."""
        if self.connection is None:
            return
        rows = [(self.version, *pair, grade) for pair, grade in grades.items() if grade != "grade_error"]
        with contextlib.suppress(sqlite3.Error), self.connection:
            self.connection.execute("DELETE FROM verdict WHERE version != ?", (self.version,))
            self.connection.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?)", rows)
