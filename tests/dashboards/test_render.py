"""The drawings that stand in for screenshots: numbers as Grafana writes them, pictures small enough to keep."""

import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import vl_convert

from grafana import draw
from grafana.slim import slim
from grafana.units import number
from tests.fixtures.emulated import ROOT
from tests.fixtures.prometheus import free_port


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "words"),
    [
        (0.00925, "s", None, "9.25 ms"),
        (19.8, "s", None, "19.8 s"),
        (150, "s", None, "2.5 min"),
        (0.000099, "s", 1, "99 µs"),
        (1051, "short", 0, "1.05 k"),
        (36, "short", 0, "36"),
        (0.263, "percentunit", 0, "26 %"),
        (1.28, "currencyUSD", 2, "$1.28"),
        (651.2, "suffix: tok/s", 0, "651 tok/s"),
        (2, "suffix:×", None, "2×"),
        (129024, "mbytes", None, "126 GiB"),
        (1.98e9, "hertz", None, "1.98 GHz"),
        (0.627, "joule", None, "627 mJ"),
        (0, "watt", None, "0 W"),
        (math.nan, "s", None, "–"),
    ],
)
def test_numbers_have_their_unit(value: float, unit: str, decimals: int | None, words: str) -> None:
    assert number(value, unit, decimals) == words


@pytest.mark.parametrize("top", [0, 0.0007, 1, 7.9, 100, 1234, 98765])
def test_ticks_are_few_and_reach_the_top(top: float) -> None:
    """Two to seven ticks from 0, evenly, the last at or above the top."""
    marks = draw.ticks(top)
    assert marks[0] == 0
    assert marks[-1] >= top
    assert 2 <= len(marks) <= 7


def test_a_slim_picture_is_the_same_size_in_pixels_and_far_smaller() -> None:
    words = "".join(
        draw.text(10, 20 * n, f"line {n} of a table", color=draw.PALETTE[n % 9]) for n in range(30)
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="600" font-family="sans-serif"><rect width="600" height="600" fill="#fff"/>{words}</svg>'
    png = vl_convert.svg_to_png(svg)
    small = slim(png)
    assert struct.unpack(">II", small[16:24]) == struct.unpack(">II", png[16:24]) == (600, 600)
    assert len(small) < 0.6 * len(png)
    assert slim(small) == small, "another form than vl-convert's is left alone"


def test_no_prometheus_is_one_line_and_exit_2(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "grafana.render", "--prometheus", address, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"--prometheus {address}: ")
    assert len(done.stderr.splitlines()) == 1


def test_committed_pictures_are_small() -> None:
    """One of each dashboard, at most 300 kB."""
    pictures = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "dashboards").glob("*.png")}
    assert set(pictures) == {"run", "compare", "server", "gpu"}
    assert max(pictures.values()) <= 300_000
