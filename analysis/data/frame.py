"""Build the frame from which everything is computed: one row for each request, and units in the column names.

A failed request is a row too. A value that was not measured is NaN and never zero. Seconds are model seconds. A run that
cannot be read is left out with a note and does not raise an exception. docs/analysis.md lists the columns.

This module does not know statistics, figures or prices.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from analysis.data.cache import LEAST_ROWS, Tables, key_of
from analysis.data.costs import add_costs, parameters_b
from analysis.data.grades import ungraded, with_grades
from analysis.data.records_reader import FLAGS, WORDS, no_records, read_columns
from analysis.data.searches import Search, read_searches
from analysis.data.setting import asked_labels, config_labels, load_label
from analysis.errors import InputError
from loadgen.files import cache_folder
from loadgen.option_types import SLO_NAMES
from loadgen.record import PROBLEMS, RECORDS, RUN, DamagedLines, FutureSchemaError, RunInfo, find_runs, read_run
from loadgen.terminal import printable

SOURCES = ("measured", "emulated", "simulated", "derived", "emulated, derived", "simulated, derived")
"""Where a number comes from; `derived` alone means derived from measured records."""
NOT_GRADED = ["filtered", "failed", "ungraded"]
"""Grades of rows that have no answer to grade: a filter of the server removed it, the request failed, or nobody graded it."""
UNDECIDED = ["undecided", "grade_timeout", "grade_error"]
"""Grades of answers that were compared with the reference, without a result."""
GRADES = ["correct", "wrong", "no_answer", "truncated", *UNDECIDED, *NOT_GRADED]


@dataclass(slots=True)
class Study:
    """All runs at or below one folder."""

    root: Path
    frame: pd.DataFrame
    runs: dict[str, RunInfo] = field(default_factory=dict)
    """The manifest of each cell; a cell is named by its folder's path below `root`."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and the reason."""
    searches: dict[str, Search] = field(default_factory=dict)
    """Searches for the capacity, by the beginning of the names of their cells."""
    tables: Tables = field(default_factory=lambda: Tables(Path(), kept=False))
    """What is kept between calls."""

    def slo(self) -> dict[str, float]:
        """The SLO that the searches, or else the runs, were given; empty where there is none or they differ."""
        given = [search.slo for search in self.searches.values()]
        given = given or [run.slo for run in self.runs.values() if run.slo]
        alike = bool(given) and all(one == given[0] for one in given) and set(given[0]) <= set(SLO_NAMES)
        return given[0] if alike else {}

    def attain(self) -> float:
        """The share of requests that the searches wanted to meet the SLO; 95 % where there is none or they differ."""
        wanted = {search.attain for search in self.searches.values()}
        return wanted.pop() if len(wanted) == 1 else 0.95

    def folder(self, cell: str) -> Path:
        """The folder of a cell."""
        return self.root if cell == self.root.name and not (self.root / cell).is_dir() else self.root / cell


def load(path: str | Path, *, grade: bool = True) -> pd.DataFrame:
    """Read every run at or below `path` into one frame with a row for each request.

    docs/analysis.md lists the columns with their units. Raises InputError where `path` is no folder.
    """
    return read_study(Path(path), grade=grade).frame


def read_study(root: Path, *, grade: bool = True) -> Study:
    """Read every run at or below `root`, grade the answers and add the costs. Raises InputError where `root` is no folder."""
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder; give a results folder that `python -m loadgen` wrote")
    study = Study(root=root, frame=pd.DataFrame())
    folders = find_runs(root)
    for folder in folders:
        cell = folder.relative_to(root).as_posix() if folder != root else root.name
        run = _read_info(folder, cell, study.notes, only=len(folders) == 1)
        if run is not None:
            study.runs[cell] = run
    study.searches = read_searches(root, study.notes)
    files = [folder / name for folder in folders for name in (RUN, RECORDS, PROBLEMS)]
    study.tables.folder = cache_folder() / "tables" / key_of(files, f"{root.resolve()} {grade}")
    found = study.tables.read("frame")
    if found is not None:
        study.frame, study.tables.kept = found[0], True
        study.notes += found[1]["notes"]
        return study
    notes: list[str] = []
    study.frame = _read_frame(study, notes, grade=grade)
    study.notes += notes
    study.tables.kept = len(study.frame) >= LEAST_ROWS
    study.tables.write(study.frame, {"notes": notes}, "frame")
    return study


def _read_frame(study: Study, notes: list[str], *, grade: bool) -> pd.DataFrame:
    """The frame of all runs, from their files."""
    tables, problems = [], {}
    for index, cell in enumerate(study.runs):
        folder = study.folder(cell)
        table = _read_table(folder, cell, notes)
        table = table.append_column("run_index", pa.array(np.full(len(table), index, np.int32)))
        problems.update(_read_problems(folder, cell, notes))
        tables.append(with_grades(folder, table, cell, notes) if grade else ungraded(table))
    frame = _assemble(tables, problems, study.runs)
    _forget_impossible(frame, notes)
    return frame


NOT_NEGATIVE = ["ttft_s", "ttfot_s", "tpot_s", "itl_s", "inter_chunk_s", "e2e_s"]
NOT_NEGATIVE += ["queue_s", "prefill_s", "decode_s"]
NOT_NEGATIVE += ["prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens", "chunks"]


def _forget_impossible(frame: pd.DataFrame, notes: list[str]) -> None:
    """Treat negative durations and counts as not measured. Changes the frame."""
    wrong = frame[NOT_NEGATIVE] < 0
    if count := int(wrong.any(axis="columns").sum()):
        frame[NOT_NEGATIVE] = frame[NOT_NEGATIVE].mask(wrong)
        notes.append(f"{count} requests have negative times or counts, which count as not measured")


def _read_info(folder: Path, cell: str, notes: list[str], *, only: bool) -> RunInfo | None:
    """The manifest of a run, or None where it cannot be used. Raises InputError where the only run is of a newer version."""
    try:
        return read_run(folder)
    except FutureSchemaError as error:
        if only:
            raise InputError(f"{folder}: {error}") from None
        notes.append(f"{cell}: {error}; the run is left out")
    except (ValueError, OSError) as error:
        notes.append(f"{cell}: run.json cannot be read ({error}); the run is left out")
    return None


def _read_table(folder: Path, cell: str, notes: list[str]) -> pa.Table:
    path, damaged = folder / RECORDS, DamagedLines()
    if not path.is_file():
        notes.append(f"{cell}: there is no {RECORDS}; the run has no requests")
        return no_records()
    table = read_columns(path, damaged)
    if damaged.count:
        notes.append(f"{cell}/{RECORDS}: {damaged}")
    return table


def _read_problems(folder: Path, cell: str, notes: list[str]) -> dict[str, tuple[str | None, float]]:
    """Subject and level of each problem."""
    path, found = folder / PROBLEMS, {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
            level = row.get("level")
            known = float(level) if isinstance(level, int | float) else float("nan")
            subject = row.get("subject")
            found[str(row["unique_id"])] = (None if subject is None else str(subject), known)
        except (ValueError, KeyError, RecursionError, OverflowError):
            notes.append(f"{cell}: an unreadable line of {PROBLEMS} was skipped")
    return found


def _assemble(
    tables: list[pa.Table], problems: dict[str, tuple[str | None, float]], runs: dict[str, RunInfo]
) -> pd.DataFrame:
    if not tables:
        tables = [ungraded(no_records().append_column("run_index", pa.array([], pa.int32())))]
    table = pa.concat_tables(tables)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns["budget_mode"] = columns["budget_mode"].fill_null("cut")  # the load generator omits the default
    for name in (*WORDS, "grade", "answer"):
        columns[name] = columns[name].dictionary_encode().combine_chunks()
    for name in FLAGS:
        columns[name] = columns[name].fill_null(False)
    whole = pa.table(columns)
    del table, columns  # nothing else may hold the columns while they are converted one by one
    tables.clear()
    frame: pd.DataFrame = whole.to_pandas(self_destruct=True)
    pa.default_memory_pool().release_unused()
    frame["sample"], frame["chunks"] = frame["sample"].fillna(0), frame["chunks"].fillna(0)
    _add_run_columns(frame, runs)
    _add_problem_columns(frame, problems)
    _add_outcomes(frame)
    add_costs(frame, runs)
    _add_latencies(frame)
    # The C library keeps a tenth of the memory, in pieces that were freed.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return frame.drop(columns="run_index")


def _add_run_columns(frame: pd.DataFrame, runs: dict[str, RunInfo]) -> None:
    """Add the columns that come from each run's manifest."""
    index, manifests = frame["run_index"].to_numpy(), list(runs.values())
    labels: dict[str, list[str]] = {
        "cell": list(runs),
        "config": config_labels(manifests),
        "model": [run.model.rsplit("/", 1)[-1] for run in manifests],
        "load": [load_label(run.load) for run in manifests],
        "asked": asked_labels(manifests),
        "dataset": [str(run.dataset.get("name", "unknown")) for run in manifests],
        "speculation": [run.speculation or "off" for run in manifests],
        "gpu": [run.gpu or "unknown" for run in manifests],
        "run_verdict": [run.verdict or "not judged" for run in manifests],
    }
    for name, raw in labels.items():
        codes, categories = pd.factorize(np.array([printable(value) for value in raw], dtype=object))
        frame[name] = categorical(codes[index], list(categories))
    numbers: dict[str, list[float]] = {
        "num_gpus": [float(run.num_gpus or "nan") for run in manifests],
        "tp": [float(run.tensor_parallel_size) for run in manifests],
        "time_scale": [run.time_scale for run in manifests],
        "params_b": [parameters_b(run.preset, run.model) for run in manifests],
    }
    for name, floats in numbers.items():
        frame[name] = np.array(floats, dtype=float)[index]

    def flagged(flag: Callable[[RunInfo], bool]) -> Any:
        return np.array([flag(run) for run in manifests], dtype=bool)[index]

    frame["emulated"] |= flagged(lambda run: run.emulated)
    frame["simulated"] |= flagged(lambda run: run.simulated)
    one_pass, trusted = flagged(lambda run: run.one_pass), flagged(_derived_rows_hold)
    largest = frame.groupby("cell", observed=True)["budget"].transform("max")
    frame["check"] = one_pass & ~frame["derived"] & ~frame["warmup"] & (frame["budget"] < largest)
    frame["trusted"] = trusted | ~frame["derived"]
    origin = np.select([frame["simulated"], frame["emulated"]], [2, 1], default=0)
    frame["source"] = categorical(origin + 3 * frame["derived"].to_numpy(), list(SOURCES))


def _derived_rows_hold(run: RunInfo) -> bool:
    """Whether latency and cost of derived budgets are known to be right: with one stream, or where the check held."""
    alone = run.load.get("kind") == "closed" and run.load.get("concurrency") == 1
    return alone or bool((run.summary.get("one_pass_check") or {}).get("holds"))


def categorical(codes: NDArray[Any], categories: list[Any]) -> "pd.Categorical[Any]":
    """A categorical column from codes, which keeps a million rows of few distinct words small."""
    return pd.Categorical.from_codes(codes.astype(np.int32), categories=pd.Index(categories))


UNKNOWN = (None, float("nan"))


def _add_problem_columns(frame: pd.DataFrame, problems: dict[str, tuple[str | None, float]]) -> None:
    names, codes = frame["problem_id"].cat.categories, frame["problem_id"].cat.codes.to_numpy()
    # The code of a missing problem is -1, which is the last entry.
    known = [*(problems.get(str(name), UNKNOWN) for name in names), UNKNOWN]
    frame["subject"] = pd.Categorical([subject for subject, _ in known]).take(codes)
    frame["level"] = np.array([level for _, level in known])[codes]


def _add_outcomes(frame: pd.DataFrame) -> None:
    """Add `ok`, `truncated` and `correct` (1, 0, or NaN where nothing was graded), and complete `grade`."""
    frame["ok"] = (frame["outcome"] == "ok").to_numpy()
    frame["truncated"] = (frame["finish_reason"] == "length").to_numpy()
    frame["grade"] = frame["grade"].cat.set_categories(GRADES)
    frame.loc[frame["grade"].isna(), "grade"] = "ungraded"
    frame.loc[~frame["ok"], "grade"] = "failed"
    frame.loc[(frame["outcome"] == "filtered").to_numpy(), "grade"] = "filtered"
    graded = ~frame["grade"].isin(["ungraded", *UNDECIDED])
    run_graded = (~frame["grade"].isin(NOT_GRADED)).groupby(frame["cell"], observed=True).transform("any")
    known = (graded & run_graded).to_numpy()
    frame["correct"] = np.where(known, (frame["grade"] == "correct").to_numpy(), np.nan)


def _add_latencies(frame: pd.DataFrame) -> None:
    """Add the server's own times (queue, prefill, decode) where it reported them, and the rest of e2e for network and client."""
    frame["queue_s"] = frame.pop("queue_time_ms") / 1e3
    # vLLM's time to first token starts when the request is scheduled, so it does not contain the time in the queue.
    frame["prefill_s"] = frame.pop("time_to_first_token_ms") / 1e3
    frame["decode_s"] = frame.pop("generation_time_ms") / 1e3
    frame["network_client_s"] = frame["e2e_s"] - frame["queue_s"] - frame["prefill_s"] - frame["decode_s"]
    frame["tokens_per_s"] = frame["completion_tokens"] / frame["e2e_s"]
