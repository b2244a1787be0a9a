"""The committed dashboards are current, valid for Grafana's schema, readable, and tied to no data source."""

import json
import re
import typing
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import AnnotationQuery, Dashboard

from grafana import generate
from tests import ROOT
from tests.dashboards.test_prometheus import PROMETHEUS
from tests.fixtures.dashboards import FILES, every_query, read

PROVISIONING = ROOT / "grafana" / "provisioning"
ANNOTATION_EXTRAS = {"titleFormat", "textFormat", "step"}
"""What Grafana's Prometheus plugin reads of an annotation and the SDK's schema leaves out."""

boards = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_dashboards_are_what_the_code_says() -> None:
    """`python -m grafana.generate` would change nothing, and no file is left over."""
    assert generate.stale() == []
    assert {path.stem for path in FILES} == set(generate.BOARDS)


def misfits(value: Any, kind: Any, where: str) -> list[str]:
    """Where a value read back by the SDK is not of the type that the SDK's schema gives it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return misfits_union(value, arguments, where)
    if origin is typing.Literal:
        return [] if value in arguments else [f"{where}: {value!r} is none of {arguments}"]
    if origin in (list, dict) and not isinstance(value, origin):
        return [f"{where}: no {origin.__name__}"]
    if origin in (list, dict):
        members = value.items() if origin is dict else enumerate(value)
        return [fault for n, one in members for fault in misfits(one, arguments[-1], f"{where}[{n}]")]
    return misfits_plain(value, kind, where)


def misfits_union(value: Any, kinds: tuple[Any, ...], where: str) -> list[str]:
    """As `misfits`, of one of several types: the one that fits best, and the SDK's class where it is of one."""
    if value is None and type(None) in kinds:
        return []
    modelled = hasattr(value, "to_json")
    likely = [kind for kind in kinds if kind is object or kind is type(value) or not modelled]
    tries = [misfits(value, kind, where) for kind in likely]
    return min(tries, key=len, default=[f"{where}: {value!r} is none of {kinds}"])


def misfits_plain(value: Any, kind: type, where: str) -> list[str]:
    """As `misfits`, of a class that is no generic."""
    if issubclass(kind, Enum):
        return [] if value in {one.value for one in kind} else [f"{where}: {value!r} is no {kind.__name__}"]
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        value = kind.from_json(value)  # the SDK leaves some members as they come
    if not isinstance(value, (int, float) if kind is float else kind):
        return [f"{where}: {value!r} is no {kind.__name__}"]
    hints = typing.get_type_hints(type(value)) if hasattr(value, "to_json") else {}
    return [
        fault
        for name, hint in hints.items()
        for fault in misfits(getattr(value, name), hint, f"{where}.{name}")
    ]


@boards
def test_json_is_valid_for_grafanas_schema(path: Path) -> None:
    """The SDK reads it back to the same JSON (no unknown key anywhere), and every value has the schema's type."""
    register_default_plugins()
    board = read(path)
    for mark in board["annotations"]["list"]:
        assert set(mark) - ANNOTATION_EXTRAS <= set(AnnotationQuery(expr="").to_json()) | {"expr", "hide"}
        for extra in ANNOTATION_EXTRAS:
            mark.pop(extra)
    parsed = Dashboard.from_json(board)
    assert json.loads(json.dumps(parsed, cls=JSONEncoder)) == board
    assert misfits(parsed, Dashboard, path.stem) == []


def test_the_schema_check_finds_what_is_wrong() -> None:
    """A wrong type, a wrong word and a wrong member each have a place and a reason."""
    board = read(FILES[0])
    board["graphTooltip"] = 7
    board["style"] = "beige"
    board["panels"][0]["gridPos"]["w"] = "wide"
    faults = misfits(Dashboard.from_json(board), Dashboard, "board")
    assert [fault.split(":")[0] for fault in faults] == [
        "board.style",
        "board.graph_tooltip",
        "board.panels[0].grid_pos.w",
    ]


@boards
def test_no_data_source_is_named(path: Path) -> None:
    """Every data source is the variable's, so the dashboard works in anyone's Grafana."""

    def uids(part: Any) -> set[str]:
        if isinstance(part, list):
            return set().union(*map(uids, part))
        if isinstance(part, dict):
            own = {part["datasource"]["uid"]} if "datasource" in part else set()
            return own.union(*map(uids, part.values()))
        return set()

    assert uids(read(path)) == {"${datasource}"}


@boards
def test_every_panel_says_what_to_look_for(path: Path) -> None:
    """A title, a unit, a description of a sentence at least, and a legend for each query."""
    for panel in (panel for panel in read(path)["panels"] if panel["type"] != "row"):
        assert len(panel["description"].split()) >= 5, panel["title"]
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]


@boards
def test_panels_fill_the_grid(path: Path) -> None:
    """24 columns, no overlap, no hole in a line; wide enough to read at 1440 pixels."""
    taken = set()
    for panel in read(path)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert at["w"] >= 6 or panel["type"] == "stat", panel["title"]
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height


@boards
def test_rates_take_grafanas_interval(path: Path) -> None:
    """No fixed window and no `$__interval` in a panel: both lose short runs."""
    for panel in read(path)["panels"]:
        for target in panel.get("targets") or []:
            windows = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
            assert windows <= {"$__rate_interval", "$__range", "$__range:1s"}, panel["title"]
            assert ("$__rate_interval" in windows) == (target.get("interval") == "2s"), panel["title"]


def test_dashboards_link_to_each_other() -> None:
    """Each has the tag that the links of the others ask for, and hands on variables and time."""
    for board in map(read, FILES):
        (link,) = board["links"]
        assert link["tags"] == board["tags"]
        assert link["keepTime"]
        assert link["includeVars"]


def test_recorded_series_exist() -> None:
    """Every `thinkload:*` a dashboard asks for is recorded by a rule."""
    rules = "".join(path.read_text() for path in (PROMETHEUS / "rules").glob("*.yml"))
    recorded = set(re.findall(r"record: (\S+)", rules))
    asked = {name for query in every_query() for name in re.findall(r"thinkload:[\w:]+", query.expr)}
    assert asked <= recorded


def test_provisioning_is_what_grafana_reads() -> None:
    """The keys Grafana documents, the mounts of the compose file, the scrape interval of Prometheus."""
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    known = {"name", "type", "access", "url", "isDefault", "editable", "jsonData"}
    assert set(source) <= known
    assert source["type"] == "prometheus"
    scrape = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    provided = yaml.safe_load((PROVISIONING / "dashboards" / "thinkload.yml").read_text())
    assert provided["apiVersion"] == 1
    (provider,) = provided["providers"]
    assert set(provider) <= {"name", "folder", "type", "allowUiUpdates", "updateIntervalSeconds", "options"}
    assert provider["type"] == "file"
    assert provider["options"] == {"path": "/var/lib/grafana/dashboards"}
