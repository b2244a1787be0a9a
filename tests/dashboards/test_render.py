"""The pictures of the dashboards: numbers are formatted as in Grafana, and the files are small enough to commit."""

import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import vl_convert

from grafana import svg_panels
from grafana.generate import BOARDS
from grafana.png_compression import compress
from grafana.unit_format import format_value
from tests.fixtures.emulated import ROOT
from tests.fixtures.prometheus import free_port


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "formatted"),
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
def test_numbers_are_formatted_with_their_unit(value: float, unit: str, decimals: int | None, formatted: str) -> None:
    assert format_value(value, unit, decimals) == formatted


@pytest.mark.parametrize("top", [0, 0.0007, 1, 7.9, 100, 1234, 98765])
def test_ticks_are_few_and_cover_the_highest_value(top: float) -> None:
    """There are two to seven ticks. The first is 0 and the last is at or above the highest value."""
    ticks = svg_panels.ticks(top)
    assert ticks[0] == 0
    assert ticks[-1] >= top
    assert 2 <= len(ticks) <= 7


def test_a_compressed_picture_has_the_same_size_in_pixels_and_far_fewer_bytes() -> None:
    lines = "".join(
        svg_panels.text(10, 20 * n, f"line {n} of a table", color=svg_panels.PALETTE[n % 9]) for n in range(30)
    )
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="600" font-family="sans-serif"><rect width="600" height="600" fill="#fff"/>{lines}</svg>'
    png = vl_convert.svg_to_png(svg)
    small = compress(png)
    assert struct.unpack(">II", small[16:24]) == struct.unpack(">II", png[16:24]) == (600, 600)
    assert len(small) < 0.6 * len(png)
    assert compress(small) == small, "a PNG in another format than vl-convert's is returned unchanged"


def test_an_unreachable_prometheus_is_a_one_line_error_with_exit_status_2(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "grafana.render", "--prometheus", address, "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"--prometheus {address}: ")
    assert len(done.stderr.splitlines()) == 1


def test_committed_pictures_are_small() -> None:
    """There is one picture for each dashboard, of at most 300 kB."""
    pictures = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "dashboards").glob("*.png")}
    assert set(pictures) == set(BOARDS)
    assert max(pictures.values()) <= 300_000
