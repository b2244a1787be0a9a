"""Loads the problems of a run: from a file, a folder, the Hub, a published data set by its name, or made of random words.

Every problem of a run and the hash over the whole data set come from `load`. A data set is read once by a process, because a sweep
asks for it in every cell. Errors name the file, the row and the fields that it has.

This module does not know how a problem is asked or what makes an answer right.
"""

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadgen.errors import UsageError
from loadgen.files import cache_folder, write_atomically
from loadgen.option_types import meant
from loadgen.options import RunOptions
from loadgen.plan import hub, synthetic
from loadgen.plan.data_files import SUFFIXES, Row, paths_of, read_rows
from loadgen.plan.hub import PUBLISHED, check_hash
from loadgen.plan.problems import Problem, names_of, problems
from loadgen.terminal import say

SAMPLE = Path(__file__).parents[1] / "data" / "sample.jsonl"
HUB = "hf:"
SYNTHETIC_PROMPTS = 256
"""Number of synthetic prompts where neither --problems nor --requests says how many a run needs."""
SYNTHETIC_WORDS = 50_000_000
"""Of all synthetic prompts together, which are in memory."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """The problems of a run and where they come from."""

    name: str
    path: str
    sha256: str
    """Hash of all rows of the data set, not only of those that --problems selects."""
    problems: list[Problem]
    facts: dict[str, Any] = field(default_factory=dict)
    """What else run.json says about the data set."""
    known_to_emulator: bool = False
    """The emulator can read the file itself."""


def load(options: RunOptions) -> Dataset:
    """Load --dataset; --problems selects some of its problems, by the seed. Raises UsageError."""
    count = options.problems
    if (lengths := options.synthetic) is not None:
        needed = (options.requests or SYNTHETIC_PROMPTS) + options.warmup
        if (count or needed) * lengths.input.mean > SYNTHETIC_WORDS:
            raise UsageError(f"--dataset {options.dataset}: more than {SYNTHETIC_WORDS:,} words: give fewer --problems")
        found = synthetic.problems(lengths, count or needed, options.seed)
        return Dataset(options.dataset, options.dataset, canonical_hash(found), found)
    whole = _whole(options)
    if count is not None and count > len(whole.problems):
        raise UsageError(f"--problems {count}: {whole.path} has only {len(whole.problems)} problems")
    return replace(whole, problems=choose(whole.problems, count, options.seed))


def choose(rows: list[Problem], count: int | None, seed: int) -> list[Problem]:
    """Select `count` rows, in the order of the file. A larger count includes every row of a smaller one."""
    if count is None:
        return rows
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[:count])]


def canonical_hash(rows: list[Problem]) -> str:
    """Return the SHA-256 of (unique_id, problem, answer) as compact JSON lines, sorted by id.

    The order of rows and keys, the escapes and further fields have no influence on it.
    """
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda r: r.unique_id):
        digest.update(json.dumps([row.unique_id, row.problem, row.answer], separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def emulator_file(options: RunOptions) -> str:
    """Return a file with the problems and their solutions in the format that an emulated server reads. Raises UsageError."""
    if options.synthetic:
        return str(SAMPLE)  # the emulated model then knows none of the prompts
    whole = _whole(options)
    return whole.path if whole.known_to_emulator else _written(whole)


@functools.lru_cache(maxsize=4)
def _written(whole: Dataset) -> str:
    """Write the rows with the names of MATH-500 into the cache. Raises UsageError."""
    names = ("unique_id", "problem", "answer", "solution", "subject", "level")
    rows = [{name: value for name in names if (value := getattr(row, name)) is not None} for row in whole.problems]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path = cache_folder() / "datasets" / f"{hashlib.sha256(lines).hexdigest()}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, lines)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: set XDG_CACHE_HOME to another folder") from None
    return str(path)


def _whole(options: RunOptions) -> Dataset:
    """The whole data set. It is read again only where one of its files has changed."""
    try:
        paths, revision = _files(options.dataset)
        stamps = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)
    except OSError as error:
        raise UsageError(f"--dataset {options.dataset}: {error.strerror or error}: give another file") from None
    return _read(options.dataset, tuple(options.fields.items()), stamps, revision)


@functools.lru_cache(maxsize=4)
def _read(
    name: str, fields: tuple[tuple[str, str], ...], stamps: tuple[tuple[Path, int, int], ...], revision: str | None
) -> Dataset:
    """Read a data set. Raises UsageError."""
    paths = [path for path, _, _ in stamps]
    rows, published = _rows(paths), PUBLISHED.get(name)
    if published is not None and published.convert is not None:
        rows = _converted(paths[0], rows, published.convert)
    if (first := next(rows, None)) is None:
        raise UsageError(f"--dataset {name}: the file has no problem: write one row for each problem")
    names = names_of(first, dict(fields))
    facts: dict[str, Any] = {"revision": revision} if revision else {}
    kept = _kept(name, list(problems(itertools.chain([first], rows), names)), facts)
    digest = canonical_hash(kept)
    if published is not None:
        check_hash(name, paths[0], digest)
    # The emulator reads JSON lines with the names of MATH-500, and knows no other form of an answer.
    as_read = [first.fields.get("problem"), first.fields.get("answer", "")]
    known = len(paths) == 1 and paths[0].suffix == ".jsonl" and as_read == [kept[0].problem, kept[0].answer]
    title = Path(name).stem if Path(name).exists() else name
    return Dataset(title, str(paths[0]), digest, kept, facts, known)


def _rows(paths: list[Path]) -> Iterator[Row]:
    """The rows of one file, or of the files that are parts of one."""
    for path in paths:
        for row in read_rows(path):
            yield row if len(paths) == 1 else row._replace(key=f"{path.stem}/{row.key}")


def _kept(name: str, found: list[Problem | None], facts: dict[str, Any]) -> list[Problem]:
    """Return the problems that were found, and say and add to `facts` how many rows had none and how many have an answer.

    None stands for a conversation without a turn of the user. Raises UsageError where nothing is left.
    """
    kept = [problem for problem in found if problem is not None]
    if not kept:
        raise UsageError(f"--dataset {name}: no conversation has a turn of the user: give another file")
    if skipped := len(found) - len(kept):
        facts["skipped"] = skipped
        say(f"{name}: {skipped} of {len(found)} conversations have no turn of the user and are left out")
    facts["answers"] = sum(bool(problem.answer) for problem in kept)
    if not facts["answers"]:
        say(f"{name} has no answers to compare with: replies are not graded (--fields answer=FIELD names the answers)")
    return kept


def _converted(
    path: Path, rows: Iterator[Row], convert: Callable[[int, Mapping[str, Any]], dict[str, Any]]
) -> Iterator[Row]:
    for number, row in enumerate(rows):
        try:
            yield row._replace(fields=convert(number, row.fields))
        except (ValueError, KeyError, TypeError) as error:
            wrong = f"is not a row of this data set ({error!r})"
            raise UsageError(f"{row.where}: {wrong}: delete {path} and try again") from None


def _files(name: str) -> tuple[list[Path], str | None]:
    """The files of a data set, and its revision on the Hub. Raises UsageError."""
    if name == "sample":
        return [SAMPLE], None
    if name in PUBLISHED:
        return hub.split(PUBLISHED[name].file)
    if name.startswith(HUB):
        return hub.split(name.removeprefix(HUB))
    folder, _, part = (name, "", "") if Path(name).exists() else name.rpartition(":")
    if not Path(folder or name).is_dir():
        return [_file(name)], None
    return paths_of(Path(folder), folder, part), None


def _file(name: str) -> Path:
    """The file at a path. Raises UsageError with what it may be instead."""
    path, known = Path(name), ["sample", *PUBLISHED]
    if path.exists():
        return path
    folder = path.parent if path.parent.is_dir() else Path()
    beside = [str(each) for each in itertools.islice(folder.iterdir(), 1000) if each.suffix in SUFFIXES]
    known += ["hf:OWNER/NAME:SPLIT", "synthetic:input=512,output=256", *beside[:10]]
    raise UsageError(f"--dataset {name}: there is no such file{meant(name, known)}")
