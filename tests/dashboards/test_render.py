"""The pictures of the dashboards: numbers are formatted as in Grafana, and the files are small enough to commit."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from grafana import panel_charts, render
from grafana.generate import BOARDS
from grafana.png_compression import compress
from tests.fixtures.emulated import ROOT
from tests.fixtures.parallel import free_port


def drawn(chart: panel_charts.Chart) -> str:
    """The SVG of a chart."""
    return str(vl_convert.vegalite_to_svg(panel_charts.specification(chart, "Title", 400, 200)))


def texts(chart: panel_charts.Chart) -> list[str]:
    """The texts in a drawn chart."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawn(chart))


def panel(unit: str, **defaults: Any) -> dict[str, Any]:
    """The JSON of a panel."""
    options = {"unit": unit, "custom": {}, "thresholds": {"steps": [{"value": None, "color": "text"}]}, **defaults}
    return {"gridPos": {"w": 8}, "fieldConfig": {"defaults": options}}


@pytest.mark.parametrize(
    ("value", "unit", "formatted"),
    [
        (0.00925, "s", "9.25 ms"),
        (19.8, "s", "19.8 s"),
        (150, "s", "2.5 min"),
        (0.000099, "s", "99 µs"),
        (0, "s", "0 s"),
        (1051, "short", "1.051 k"),
        (36, "short", "36"),
        (0.76, "short", "0.76"),
        (0.263, "percentunit", "26.3 %"),
        (1.28, "currencyUSD", "$1.28"),
        (651.2, "suffix: tok/s", "651 tok/s"),
        (2, "suffix:×", "2×"),
        (129024, "mbytes", "126 GiB"),
        (1.98e9, "hertz", "1.98 GHz"),
        (0.627, "joule", "627 mJ"),
        (0, "watt", "0 W"),
    ],
)
def test_numbers_are_formatted_with_their_unit(value: float, unit: str, formatted: str) -> None:
    assert texts(panel_charts.stat(panel(unit), [{"value": value}])) == [formatted, "Title"]


def test_a_number_has_the_color_of_its_threshold_or_its_text() -> None:
    steps = [{"value": None, "color": "green"}, {"value": 5, "color": "red"}]
    mappings = [{"options": {"0": {"text": "none", "color": "blue"}}}]
    made = panel("short", thresholds={"steps": steps}, mappings=mappings)
    pictures = [drawn(panel_charts.stat(made, [{"value": value}])) for value in (4, 6, 0)]
    assert all(
        panel_charts.COLORS[name] in picture for name, picture in zip(("green", "red", "blue"), pictures, strict=True)
    )
    assert "none" in texts(panel_charts.stat(made, [{"value": 0}]))


def test_a_line_ends_at_a_gap_and_its_legend_has_mean_and_maximum() -> None:
    """Two parts of a line are two paths, also where lines are stacked, and all values lie between the ends of the axis."""
    rows = [{"name": "p50", "at_s": at, "value": at + 1.0, "part": str(at > 50)} for at in (0, 2, 100, 102)]
    for custom in ({}, {"stacking": {"mode": "normal"}}):
        made = panel_charts.time_series(panel("s", custom=custom), rows, 120, [1.0])
        assert "p50  52 s (max 103 s)" in texts(made)
        assert drawn(made).count('aria-roledescription="line mark"') == 2


def test_a_panel_without_data_says_so() -> None:
    assert texts(panel_charts.stat(panel("s"), [])) == ["–", "Title"]
    assert texts(panel_charts.time_series(panel("s"), [], 120, [1.0])) == ["no data", "Title"]


def test_a_table_has_a_row_for_each_set_of_labels() -> None:
    rows = [{"Configuration": "tp1", "TTFT": 0.5}, {"Configuration": "tp2"}]
    found = texts(panel_charts.table(rows, {"Configuration": "", "TTFT": "s"}))
    assert found == ["Configuration", "tp1", "tp2", "TTFT", "500 ms", "–", "Title"]


def test_bars_have_names_and_values() -> None:
    rows = [{"name": name, "config": name, "value": value} for name, value in (("tp2", 2.0), ("tp1", 1.0))]
    assert texts(panel_charts.bar_gauge(panel("joule"), rows)) == ["tp2", "tp1", "2 J", "1 J", "Title"]


def test_a_compressed_picture_has_the_same_size_in_pixels_and_far_fewer_bytes() -> None:
    lines = "".join(f'<text x="10" y="{20 * n}" fill="#{n + 300:03x}">line {n} of a table</text>' for n in range(30))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="600" font-family="sans-serif"><rect width="600" height="600" fill="#fff"/>{lines}</svg>'
    png = vl_convert.svg_to_png(svg)
    small = compress(png)
    assert struct.unpack(">II", small[16:24]) == struct.unpack(">II", png[16:24]) == (600, 600)
    assert len(small) < 0.6 * len(png)
    assert compress(small) == small, "a PNG in another format than vl-convert's is returned unchanged"


def test_an_unreachable_prometheus_is_a_one_line_error_with_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert render.main(["--prometheus", address, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--prometheus {address}: ")


def test_committed_pictures_are_small() -> None:
    """There is one picture for each dashboard, of at most 300 kB."""
    pictures = {path.stem: path.stat().st_size for path in (ROOT / "docs" / "dashboards").glob("*.png")}
    assert set(pictures) == set(BOARDS)
    assert max(pictures.values()) <= 300_000
