"""Verdicts for pairs of reference and answer: `compare` first, math-verify in killable processes for the rest.

Rules: each distinct pair is judged once, and remembered on disk under the hash of this package's source. A pair that
runs out of time is `grade_timeout` and a crash is `grade_error`, never `wrong`. math-verify alone stops by SIGALRM,
which native code ignores: the process is killed above that, and may not eat the machine's memory.

Does not know: outputs, records, budgets.
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

from analysis.grading.equivalence import compare
from analysis.grading.normalize import clean

Verdict = Literal["correct", "wrong", "grade_timeout", "grade_error"]
Pair = tuple[str, str]
"""(reference, answer), as written."""

INNER_S = 8
"""math-verify's own limit on a parse and on a comparison."""
KILL_S = 13
"""Above the comparison; below the 15 s that a pair may take."""
MEMORY_BYTES = 4 << 30
WORKERS = min(4, os.cpu_count() or 1)
TASKS_PER_PROCESS = 500
_WORDS = re.compile(r"\\text\{([^{}]*)\}")


def version() -> str:
    """Hash of what decides a verdict: this package's source and math-verify's version."""
    digest = hashlib.sha256(importlib.metadata.version("math-verify").encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def judge(pairs: Iterable[Pair], *, cache: Path | None = None) -> dict[Pair, Verdict]:
    """A verdict for every distinct pair. `cache`: a file to remember them in; None remembers nothing."""
    wanted = set(pairs)
    with _Memory(cache) as memory:
        verdicts = memory.recall(wanted)
        fresh: dict[Pair, Verdict] = {}
        unread: list[Pair] = []
        for pair in wanted - verdicts.keys():
            same = compare(*pair)
            if same is None:
                unread.append(pair)
            else:
                fresh[pair] = "correct" if same else "wrong"
        fresh.update(_verify_all(unread))
        memory.remember(fresh)
    return verdicts | fresh


def _verify_all(pairs: Collection[Pair]) -> Iterator[tuple[Pair, Verdict]]:
    """math-verify's verdicts, each in a process that may be killed."""
    if not pairs:
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["analysis.grading.judge", "math_verify"])
    with ProcessPool(
        max_workers=min(WORKERS, len(pairs)),
        max_tasks=TASKS_PER_PROCESS,
        context=context,
        initializer=_start,
    ) as pool:
        futures = [(pair, pool.schedule(verify, args=pair, timeout=KILL_S)) for pair in sorted(pairs)]
        for pair, future in futures:
            try:
                yield pair, future.result()
            except FutureTimeoutError:
                yield pair, "grade_timeout"
            except (ProcessExpired, MemoryError, Exception) as error:  # noqa: BLE001  # a worker may send back anything
                logging.getLogger(__name__).debug("%s: %r", pair, error)
                yield pair, "grade_error"


def _start() -> None:
    """In a new worker: a memory limit, and a first parse, which takes a hundred times what the others take."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with contextlib.suppress(Exception):
        verify(r"\frac{1}{2}", r"\sum_{k=1}^{2} \frac{k}{6}")


def verify(gold: str, answer: str) -> Verdict:
    """math-verify on one pair, in this process's main thread. Raises what math-verify raises, but for its timeout."""
    from math_verify import parse, verify  # noqa: PLC0415  # half a second, and only some pairs need it
    from math_verify.errors import TimeoutException  # noqa: PLC0415
    from math_verify.parser import LatexExtractionConfig  # noqa: PLC0415

    gold, answer = clean(gold), clean(answer)
    if _new_words(gold, answer):
        return "wrong"
    latex = [LatexExtractionConfig(boxed_match_priority=0)]
    try:
        reference, given = (
            parse(
                rf"\boxed{{{text}}}",
                extraction_config=latex,
                fallback_mode="no_fallback",
                parsing_timeout=INNER_S,
                raise_on_error=True,
            )
            for text in (gold, answer)
        )
        if not reference or not given or not (_whole(reference[0], gold) and _whole(given[0], answer)):
            return "wrong"
        right = verify(
            reference,
            given,
            allow_set_relation_comp=True,
            timeout_seconds=INNER_S,
            raise_on_error=True,
        )
    except TimeoutException:
        return "grade_timeout"
    return "correct" if right else "wrong"


def _new_words(gold: str, answer: str) -> bool:
    """Does the answer say words that the reference does not? math-verify drops `less`, `excess`, `profit` as units."""
    return bool({*_WORDS.findall(answer.casefold())} - {*_WORDS.findall(gold.casefold())})


def _whole(parsed: object, text: str) -> bool:
    """Did the parser keep every integer of the text? It may stop early without a word."""
    atoms = re.findall(r"\d+", str(parsed))
    return all(
        number.lstrip("0") in {a.lstrip("0") for a in atoms}
        for number in re.findall(r"(?<![\d.])\d+(?![\d.])", text)
    )


class _Memory:
    """Verdicts on disk, of this version of the grader only."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.version = version()
        self.connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        if self.path is not None:
            with contextlib.suppress(OSError, sqlite3.Error):  # a cache that cannot be used is only slower
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

    def recall(self, pairs: set[Pair]) -> dict[Pair, Verdict]:
        """What is known of these pairs."""
        if self.connection is None:
            return {}
        query = "SELECT verdict FROM verdict WHERE version = ? AND gold = ? AND answer = ?"
        with contextlib.suppress(sqlite3.Error):
            found = {pair: self.connection.execute(query, (self.version, *pair)).fetchone() for pair in pairs}
            return {pair: row[0] for pair, row in found.items() if row}
        return {}

    def remember(self, verdicts: dict[Pair, Verdict]) -> None:
        """Keep these, crashes excepted: they may be the machine's fault."""
        if self.connection is None:
            return
        rows = [
            (self.version, *pair, verdict) for pair, verdict in verdicts.items() if verdict != "grade_error"
        ]
        with contextlib.suppress(sqlite3.Error), self.connection:
            self.connection.execute("DELETE FROM verdict WHERE version != ?", (self.version,))
            self.connection.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?)", rows)
