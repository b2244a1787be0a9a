"""The tables of the studies, on cells with known times and on the published pages."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import stats
from benchmarks.studies import crossover, day_noise
from benchmarks.studies.cells import MeasuredCell, Setting, read_cells
from tests import ROOT

RESULTS = ROOT / "docs/results"
FIRST, FOUR = RESULTS / "h200-vllm-0.26.0", RESULTS / "h200x4-vllm-0.26.0"
NEWER = RESULTS / "h200-vllm-0.32.0"
STUDIES = [FOUR / "cells", FOUR / "acceptance", FIRST / "cells", FIRST / "day-2"]


def setting(config: str, streams: int = 1, temperature: float = 0.0) -> Setting:
    """A setting of 7B with 1,024 tokens."""
    return Setting("h200", config, "7b", streams, temperature, 1024)


@pytest.fixture(scope="module")
def cell() -> MeasuredCell:
    """A cell with 64 requests; the tests need these only."""
    return read_cells(FOUR / "cells/tp1_7b_c32_t0")[0]


def taking(cell: MeasuredCell, factor: float) -> MeasuredCell:
    """The same cell with every TPOT times a factor."""
    return replace(cell, requests=cell.requests.assign(tpot_s=factor * cell.requests["tpot_s"]))


def test_the_noise_between_days_is_what_a_common_factor_leaves(cell: MeasuredCell) -> None:
    """The second machine is 10 % slower, and one of two cells takes 20 % longer still: the noise is log 1.2 / 2."""
    keys = [setting("tp1"), setting("tp1-ngram")]
    first = dict.fromkeys(keys, cell)
    second = {keys[0]: taking(cell, 1.1), keys[1]: taking(cell, 1.32)}
    found = day_noise.noise([first, second], keys)
    assert found
    assert (found["settings"], found["differences"]) == (2, 2)
    assert found["deviation"] == pytest.approx(math.log(1.2) / 2, abs=1e-4)
    assert day_noise.noise([first], keys) is None
    assert [key.limited_by for key in keys] == ["gpu", "host"]


def test_a_speed_up_is_compared_within_a_study_and_averaged_over_studies(cell: MeasuredCell) -> None:
    """Speed-ups of 4 and 1 at the same load give 2, and a study without the baseline gives nothing."""
    spec = setting("tp1-ngram-a1.75")
    studies = [{setting("tp1"): cell, spec: taking(cell, 1 / 4)}, {setting("tp1"): cell, spec: cell}, {spec: cell}]
    found = crossover.speedups(studies, parallel=False)
    kind = crossover.Kind("7b", 1, "0.26", "1.75")
    assert list(found) == [kind]
    assert found[kind][1].estimate == pytest.approx(2)
    once = crossover.speedups(studies[1:2], parallel=False)[kind][1]
    assert 1 < found[kind][1].high / found[kind][1].low < once.high / once.low


@pytest.mark.parametrize(
    ("points", "shown"),
    [
        ({1: 2.0, 8: 1.5, 32: 1.1}, ">32"),
        ({1: 0.9, 8: 1.2}, "<1"),
        ({8: 2.0, 32: 0.5}, "16"),  # halfway, on both logarithmic scales
        ({1: 4.0, 32: 0.5, 128: 2.0}, "10"),  # 32 to the power of 2/3; what comes later does not count
        ({1: math.nan, 8: 2.0, 32: 0.5}, "16"),
        ({1: math.nan}, "–"),
    ],
)
def test_the_load_at_which_speculation_stops_to_pay_is_interpolated(points: dict[int, float], shown: str) -> None:
    assert crossover.shown_crossing(points) == shown


def test_the_crossing_has_the_interval_of_the_speed_up() -> None:
    """The bounds cross 1 at their own loads; a load that was not measured is left blank."""
    loads = {8: stats.Interval(2.0, 1.0, 4.0), 32: stats.Interval(0.5, 0.25, 1.0)}
    (row,) = crossover.rows({crossover.Kind("7b", 2, "0.26", "1.75"): loads})
    assert row == "7b | 2 | 0.26 | 1.75 | – | 2.00 [1.00, 4.00] | 0.50 [0.25, 1.00] | – | 16 (8 to >32)"


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The rows of the tables that a command has printed."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]


def test_the_pages_have_the_rows_that_the_commands_print(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Crossings, scaling and the differences between days stand on the pages as printed, and the figures can be drawn."""
    assert crossover.main([*map(str, STUDIES), "--figures", str(tmp_path)]) == 0
    page = (FOUR / "README.md").read_text().splitlines()
    assert not [row for row in printed(capsys) if row not in page]
    assert {path.name for path in tmp_path.iterdir()} == {"crossover.svg", "tp-scaling.svg"}
    for command in (crossover.main, day_noise.main):
        arguments = ["--table"] if command is day_noise.main else []
        assert command([str(NEWER / "cells"), str(NEWER / "day-2"), *arguments]) == 0
        page = (NEWER / "README.md").read_text().splitlines()
        without_scaling = [row for row in printed(capsys) if row.count("|") != crossover.SCALING.count("|") + 2]
        assert not [row for row in without_scaling if row not in page]
    page = (FIRST / "README.md").read_text().splitlines()
    for other in (FIRST / "cells", FOUR):
        assert day_noise.main(["--table", str(other), str(FIRST / "day-2")]) == 0
        assert not [row for row in printed(capsys) if row not in page]
