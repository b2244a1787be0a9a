"""The committed dashboards match the code, are valid in Grafana's schema, are readable, and do not depend on a certain data source."""

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
from grafana.panels import DESCRIPTIONS
from tests import ROOT
from tests.dashboards.test_prometheus import PROMETHEUS
from tests.fixtures.dashboards import FILES, every_query, read

PROVISIONING = ROOT / "grafana" / "provisioning"
ANNOTATION_EXTRAS = {"titleFormat", "textFormat", "step", "tagKeys"}
"""Keys of an annotation that Grafana's Prometheus data source reads and that the SDK's schema does not contain."""

boards = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_dashboard_files_match_the_code() -> None:
    """`python -m grafana.generate` would change nothing, and there is no file without a dashboard."""
    assert generate.outdated() == []
    assert {path.stem for path in FILES} == set(generate.BOARDS)


def schema_errors(value: Any, kind: Any, where: str) -> list[str]:
    """Places at which a value that the SDK has read does not have the type of the SDK's schema."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Union:
        return schema_errors_union(value, arguments, where)
    if origin is typing.Literal:
        return [] if value in arguments else [f"{where}: {value!r} is not one of {arguments}"]
    if origin in (list, dict) and not isinstance(value, origin):
        return [f"{where}: not a {origin.__name__}"]
    if origin in (list, dict):
        members = value.items() if origin is dict else enumerate(value)
        return [error for n, one in members for error in schema_errors(one, arguments[-1], f"{where}[{n}]")]
    return schema_errors_plain(value, kind, where)


def schema_errors_union(value: Any, kinds: tuple[Any, ...], where: str) -> list[str]:
    """The errors of a value of a union type, for the member type with the fewest errors. An SDK object has only its own class."""
    if value is None and type(None) in kinds:
        return []
    is_sdk_object = hasattr(value, "to_json")
    candidates = [kind for kind in kinds if kind is object or kind is type(value) or not is_sdk_object]
    attempts = [schema_errors(value, kind, where) for kind in candidates]
    return min(attempts, key=len, default=[f"{where}: {value!r} is not one of {kinds}"])


def schema_errors_plain(value: Any, kind: type, where: str) -> list[str]:
    """The errors of a value whose type is a class without type arguments."""
    if issubclass(kind, Enum):
        return [] if value in {one.value for one in kind} else [f"{where}: {value!r} is not a {kind.__name__}"]
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        value = kind.from_json(value)  # the SDK does not parse some members
    if not isinstance(value, (int, float) if kind is float else kind):
        return [f"{where}: {value!r} is not a {kind.__name__}"]
    hints = typing.get_type_hints(type(value)) if hasattr(value, "to_json") else {}
    return [
        error for name, hint in hints.items() for error in schema_errors(getattr(value, name), hint, f"{where}.{name}")
    ]


@boards
def test_json_is_valid_for_grafanas_schema(path: Path) -> None:
    """The SDK reads each file back to the same JSON, so there is no unknown key, and every value has the type of the schema."""
    register_default_plugins()
    board = read(path)
    for annotation in board["annotations"]["list"]:
        assert set(annotation) - ANNOTATION_EXTRAS <= set(AnnotationQuery(expr="").to_json()) | {"expr", "hide"}
        for extra in ANNOTATION_EXTRAS:
            annotation.pop(extra)
    parsed = Dashboard.from_json(board)
    assert json.loads(json.dumps(parsed, cls=JSONEncoder)) == board
    assert schema_errors(parsed, Dashboard, path.stem) == []


def test_the_schema_check_finds_errors() -> None:
    """The check reports the place of a wrong type, of an unknown value and of an error in a nested member."""
    register_default_plugins()
    board = read(FILES[0])
    board["graphTooltip"] = 7
    board["style"] = "beige"
    board["panels"][0]["gridPos"]["w"] = "wide"
    errors = schema_errors(Dashboard.from_json(board), Dashboard, "board")
    assert [error.split(":")[0] for error in errors] == [
        "board.style",
        "board.graph_tooltip",
        "board.panels[0].grid_pos.w",
    ]


@boards
def test_the_data_source_is_a_variable(path: Path) -> None:
    """Every panel uses the variable, so the dashboard works in any Grafana."""

    def uids(item: Any) -> set[str]:
        if isinstance(item, list):
            return set().union(*map(uids, item))
        if isinstance(item, dict):
            own = {item["datasource"]["uid"]} if "datasource" in item else set()
            return own.union(*map(uids, item.values()))
        return set()

    assert uids(read(path)) == {"${datasource}"}


@boards
def test_every_panel_is_described(path: Path) -> None:
    """A panel has a title, a unit, a description of at least five words, and a legend for each query."""
    for panel in (panel for panel in read(path)["panels"] if panel["type"] != "row"):
        assert len(panel["description"].split()) >= 5, panel["title"]
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        for target in panel["targets"]:
            assert target["legendFormat"], panel["title"]


def test_every_description_belongs_to_a_panel() -> None:
    """`descriptions.yaml` has no text under a title that no panel or dashboard has."""
    for name, texts in yaml.safe_load(DESCRIPTIONS.read_text()).items():
        (board,) = (board for board in map(read, FILES) if board["uid"] == f"thinkload-{name}")
        assert set(texts) <= {board["title"], *(panel["title"] for panel in board["panels"])}


@boards
def test_panels_fill_the_grid(path: Path) -> None:
    """Panels fill all 24 columns without overlaps or gaps, and are wide enough to read at 1440 pixels."""
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
def test_rates_use_grafanas_rate_interval(path: Path) -> None:
    """A panel uses neither a fixed window nor `$__interval`, because both miss short runs."""
    for panel in read(path)["panels"]:
        for target in panel.get("targets") or []:
            windows = set(re.findall(r"\[([^\]]+)\]", target["expr"]))
            assert windows <= {"$__rate_interval", "$__range", "$__range:1s"}, panel["title"]
            assert ("$__rate_interval" in windows) == (target.get("interval") == "2s"), panel["title"]


@boards
def test_legends_markers_and_tables_say_what_they_show(path: Path) -> None:
    """A legend has the mean and the maximum, a marker the names of its run, and a number of a table fits on the screen."""
    board = read(path)
    panels = [panel for panel in board["panels"] if panel["type"] in ("timeseries", "table")]
    for panel in panels:
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["calcs"] == ["mean", "max"]
        else:
            widths = [one for over in panel["fieldConfig"]["overrides"] for one in over["properties"]]
            assert {"id": "custom.minWidth", "value": 60} in widths
    assert panels
    assert all("{{config}}" in marker["textFormat"] for marker in board["annotations"]["list"])


def test_dashboards_link_to_each_other() -> None:
    """Each has the tag by which the others link to it, and its links keep the variables and the time range."""
    for board in map(read, FILES):
        (link,) = board["links"]
        assert link["tags"] == board["tags"]
        assert link["keepTime"]
        assert link["includeVars"]


def test_recorded_series_exist() -> None:
    """A rule records every `thinkload:*` series that a dashboard queries."""
    rules = "".join(path.read_text() for path in (PROMETHEUS / "rules").glob("*.yml"))
    recorded = set(re.findall(r"record: (\S+)", rules))
    queried = {name for query in every_query() for name in re.findall(r"thinkload:[\w:]+", query.expr)}
    assert queried <= recorded


def test_provisioning_is_valid() -> None:
    """The files have only keys that Grafana documents, the path of the compose file, and the scrape interval of Prometheus."""
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
