"""Each dialect of the API, replayed at its times to a run of `python -m loadgen`: the records and the verdict are the right ones.

A file NAME.jsonl holds one dialect (tests/fixtures/replays.py). Its second line is what is right: values of the record, times in
ms, and the verdict with a part of its reasons (`says`). A machine that is
busy delays events and joins reads, but never brings them forward. So the request that comes closest to the true time is
compared, the reasons that such a machine gives are left out, and a run that differs is made again.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadgen.record import Record, read_records, read_run
from tests import ROOT
from tests.fixtures import replays
from tests.fixtures.emulated import loadgen
from tests.fixtures.replays import serving

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
REQUESTS = 8
ATTEMPTS = 3
"""A busy machine joins reads, which makes a run SUSPECT. A wrong reading of a stream is wrong in every attempt."""
PER_TOKEN = ("tpot_ms", "itl_ms")
OF_THE_REQUEST = ("ttft_ms", "ttfot_ms", "e2e_ms")
EARLY_MS, LATE_MS, MARGIN = 3, 60, 0.2
"""How much earlier and later a time of the request may be, and the share by which a time per token may differ. The known
mistakes are larger: a role chunk comes 40 ms or more before the first token, and the answer 160 ms after the reasoning."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(FOLDER) as url:
        yield url


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [{"unique_id": f"p{i}", "problem": f"What is 7 + 5? ({i})", "answer": "12"} for i in range(REQUESTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_there_are_enough_dialects() -> None:
    """The list of a folder is empty where the folder is not found, and then nothing is compared."""
    assert len(NAMES) >= 60


def test_every_dialect_is_documented() -> None:
    page = (ROOT / "docs" / "endpoints.md").read_text()
    assert [name for name in NAMES if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_run_makes_the_right_record(server: str, problems: Path, tmp_path: Path, name: str) -> None:
    """One run of eight requests: each outcome, count and text is right, each time is within its margin, and the verdict is right."""
    right = replays.read(FOLDER / f"{name}.jsonl").right
    target = f"{server}/{name}{right.get('target', '/v1')}"
    options = ("--budgets", "64", "--percentile", "p50", "--concurrency", "4", *right.get("options", ()))
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        done = loadgen("--target", target, "--dataset", str(problems), *options, "--out", str(folder))
        assert done.returncode == (4 if right.get("verdict") == "INVALID" else 0), done.stderr
        try:
            check_run(folder, right)
        except AssertionError:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def check_run(folder: Path, right: dict[str, Any]) -> None:
    """Compare the records and the verdict of a run with what is right."""
    found = list(read_records(folder / "records.jsonl"))
    assert len(found) == REQUESTS
    for key, value in right.items():
        if key in Record.__struct_fields__:
            assert {getattr(record, key) for record in found} == {value}, (key, found[0])
        elif key in PER_TOKEN + OF_THE_REQUEST:
            check_times(found, key, value)
    check_verdict(folder, right)


def check_times(found: list[Record], key: str, right: Any) -> None:
    """Compare one time in ms with the right one; None is right where no request can measure it."""
    values = [value for record in found if (value := getattr(record, key.replace("_ms", "_s"))) is not None]
    if right is None or not values:
        assert not values, (key, found[0])
        assert right is None, (key, found[0])
        return
    early_ms, late_ms = (MARGIN * right,) * 2 if key in PER_TOKEN else (EARLY_MS, LATE_MS)
    assert -early_ms <= min((1000 * value - right for value in values), key=abs) <= late_ms, (key, right, values)


def check_verdict(folder: Path, right: dict[str, Any]) -> None:
    run = read_run(folder)
    reasons = [reason for reason in run.reasons if not reason.startswith("client:")]
    busy = len(reasons) < len(run.reasons)
    if busy and right.get("verdict") == "VALID":  # such a machine also joins reads
        reasons = [reason for reason in reasons if "arrived in clumps" not in reason]
    if "verdict" in right:
        verdict = "VALID" if not reasons else run.verdict
        assert verdict == right["verdict"], run.reasons
    if "says" in right:
        words = [*reasons, *(record.error or "" for record in read_records(folder / "records.jsonl"))]
        assert any(right["says"] in text for text in words), words
    if "goodput" in right:
        assert run.summary["goodput"]["share"] == right["goodput"]
