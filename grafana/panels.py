"""Panels and complete dashboards in one style. Every panel has a title, a description, a unit and a legend.

Rules: a description says which values are good and what other values mean; `boards/descriptions.yaml` has them under the titles of the
panels. The data source is the variable `$datasource`, never a fixed uid. A panel is an SDK builder: a board sets another width (`span`),
height, maximum or number of decimals with its methods. Widths count columns of a grid of 24, heights count rows of 38 pixels. Panels that
belong together fit into 20 rows, which is one screen of 1440×900 pixels.

This module does not know which metrics exist or which queries make sense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DESCRIPTIONS = Path(__file__).parent / "boards" / "descriptions.yaml"
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "thinkload"

RATE_STEP = "2s"
"""Twice the scrape interval. `$__rate_interval` is then 8 s, so that a quantile is computed from more than a few requests."""

Target = tuple[str, str]
"""A PromQL expression and its legend."""
PanelBuilder = TypeVar("PanelBuilder", timeseries.Panel, stat.Panel, bargauge.Panel, table.Panel)


def _query(target: Target, index: int) -> prometheus.Dataquery:
    expr, legend = target
    query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + index))
    return (query.interval(RATE_STEP) if "$__rate_interval" in expr else query).datasource(DATASOURCE)


def _queries(targets: Sequence[Target]) -> list[Builder[Dataquery]]:
    return [_query(target, index) for index, target in enumerate(targets)]


def _thresholds(*steps: tuple[float | None, str]) -> builders.ThresholdsConfig:
    thresholds = [models.Threshold(value=value, color=color) for value, color in steps]
    return builders.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(thresholds)


def _colors(mode: models.FieldColorModeId) -> builders.FieldColor:
    return builders.FieldColor().mode(mode)


def _placed(panel: PanelBuilder, title: str, width: int, height: int) -> PanelBuilder:
    """Set what all kinds of panels have."""
    return panel.title(title).datasource(DATASOURCE).span(width).height(height)


def time_series_panel(
    title: str, unit: str, *targets: Target, stacked: bool = False, limit: float | None = None
) -> timeseries.Panel:
    """Values over time. `limit` draws a dashed line; values above it indicate a problem."""
    # The last sample of a run belongs to its end, when the load drains.
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).calcs(["mean", "max"])
    panel = (
        _placed(timeseries.Panel(), title, width=8, height=6)
        .unit(unit)
        .min(0)
        .fill_opacity(20 if stacked else 6)
        .line_width(1.5)
        .span_nulls(30_000)  # a few requests per second leave short gaps; the end of a run leaves a longer one
        .show_points(kinds.VisibilityMode.AUTO)
        .color_scheme(_colors(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(legend.placement(kinds.LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .targets(_queries(targets))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if limit is not None:
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds((None, "transparent"), (limit, "red"))).thresholds_style(style)
    return panel


def stat_panel(
    title: str,
    unit: str,
    *targets: Target,
    thresholds: Sequence[tuple[float | None, str]] = ((None, "text"),),
    value_texts: dict[str, tuple[str, str]] | None = None,
) -> stat.Panel:
    """The newest value as a large number. `value_texts` maps a value to the text and the color to show instead."""
    panel = (
        _placed(stat.Panel(), title, width=3, height=3)
        .unit(unit)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_scheme(_colors(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(*thresholds))
        .targets(_queries(targets))
    )
    if value_texts:
        results = {
            value: models.ValueMappingResult(text=shown, color=color) for value, (shown, color) in value_texts.items()
        }
        panel = panel.mappings([models.ValueMap(options=results)])
    return panel


def bar_gauge_panel(title: str, unit: str, target: Target) -> bargauge.Panel:
    """One bar per configuration, computed over the whole selected time range."""
    return (
        _placed(bargauge.Panel(), title, width=8, height=7)
        .unit(unit)
        .decimals(2)
        .min(0)
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .value_mode(kinds.BarGaugeValueMode.TEXT)
        .show_unfilled(True)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_scheme(_colors(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .thresholds(_thresholds((None, "blue")))
        .targets([_query(target, 0).instant()])
    )


@dataclass(frozen=True)
class Column:
    """One column of a table: a query with one value for the labels of each row."""

    title: str
    expr: str
    unit: str
    decimals: int | None = None


def table_panel(title: str, labels: dict[str, str], columns: Sequence[Column]) -> table.Panel:
    """A table with a row for each combination of `labels` (label → heading) and a column for each query."""
    values = {f"Value #{chr(ord('A') + index)}": column.title for index, column in enumerate(columns)}
    names = {**labels, **values}
    order = {name: index for index, name in enumerate(names)}
    organize = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}
    panel = (
        _placed(table.Panel(), title, width=24, height=6)
        .show_header(True)
        .cell_height(kinds.TableCellHeight.SM)
        .targets(
            [
                _query((column.expr, column.title), index).instant().format(PromQueryFormat.TABLE)
                for index, column in enumerate(columns)
            ]
        )
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(models.DataTransformerConfig(id_val="organize", options=organize))
    )
    for column in columns:
        panel = panel.override_by_name(column.title, _cell_format(column))
    return panel


def _cell_format(column: Column) -> list[models.DynamicConfigValue]:
    # With Grafana's own minimum of 150 pixels, a table of 13 columns is wider than a screen.
    values = {"unit": column.unit, "custom.minWidth": 60, "decimals": column.decimals}
    return [models.DynamicConfigValue(id_val=name, value=value) for name, value in values.items() if value is not None]


PanelOrRow = Builder[models.Panel] | str
"""A panel, or the heading of a row of panels."""


def build_dashboard(
    uid: str,
    title: str,
    contents: Sequence[PanelOrRow],
    *,
    start: str,
    variables: Sequence[Builder[models.VariableModel]] = (),
) -> models.Dashboard:
    """Build a dashboard with the texts of its panels and the variables, links and annotations that all dashboards have.

    Links to a dashboard use its uid, so the uid does not change when the dashboard is renamed.
    """
    texts: dict[str, str] = yaml.safe_load(DESCRIPTIONS.read_text("utf-8"))[uid]
    link = builders.DashboardLink("Thinkload").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    dashboard = (
        builders.Dashboard(title)
        .uid(f"{TAG}-{uid}")
        .description(texts[title])
        .tags([TAG])
        .editable()
        .refresh("5s")
        .time(start, "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(link.as_dropdown(False).include_vars(True).keep_time(True))
    )
    source = builders.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    for variable in [source, *map(_filter_variable, _VARIABLE_QUERIES), *variables]:
        dashboard = dashboard.with_variable(variable)
    for item in contents:
        dashboard = dashboard.with_row(builders.Row(item)) if isinstance(item, str) else dashboard.with_panel(item)
    built = dashboard.build()
    built.annotations = models.AnnotationContainer(list_val=_annotations())
    for panel_id, panel in enumerate(built.panels or [], start=1):
        panel.id_val = panel_id
        if isinstance(panel, models.Panel):
            panel.description = panel.description or texts[panel.title or ""]
    return built


_VARIABLE_QUERIES = {
    "config": "label_values(vllm:num_requests_running, config)",
    "model": 'label_values(vllm:num_requests_running{config=~"$config"}, model)',
    "run": 'label_values(vllm:num_requests_running{config=~"$config", model=~"$model"}, run)',
}
"""The values come from one of vLLM's own metrics, because `label_values(model)` alone would also list those of other exporters."""


def _filter_variable(name: str) -> builders.QueryVariable:
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return label_variable(name, name.capitalize(), _VARIABLE_QUERIES[name]).current(everything)


def label_variable(name: str, label: str, query: str) -> builders.QueryVariable:
    """A variable that selects one or more values of a label. The default is all of them."""
    return (
        builders.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": f"variable-{name}"})
        .datasource(DATASOURCE)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def _region(name: str, color: str, expr: str, text: str) -> dict[str, object]:
    """An annotation from the start to the end of a series.

    It adds the keys that Grafana's Prometheus data source reads from an annotation and that the SDK does not define.
    """
    query = models.AnnotationQuery(name=name, datasource=DATASOURCE, enable=True, icon_color=color, expr=expr)
    return {**query.to_json(), "titleFormat": name, "textFormat": text, "tagKeys": "run,cell,config", "step": "1s"}


def _annotations() -> list[Any]:
    run = 'thinkload:client_run{config=~"$config", model=~"$model", run=~"($run).*"} ^ 0'
    runs = f"sum by (run, config, model) ({run})"
    cells = f"sum by (instance, cell) (loadgen_cell_info) * on (instance) group_left (config, run) ({run})"
    return [
        _region("Run", "blue", runs, "run {{run}}: {{config}}, {{model}}"),
        _region("Cell", "purple", cells, "cell {{cell}}: {{config}}"),
    ]
