"""Panels and the frame around them, in one style: unit, legend and a description that says what to look for, or no panel.

Rules: the data source is the variable `$datasource`, never a uid. A target is (PromQL, legend). Widths are of 24 columns, heights
of 38 pixels: what must be seen together fits 20 rows of a 1440×900 screen.

Does not know: which queries make sense.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "thinkload"

RATE_STEP = "2s"
"""Twice the scrape interval: `$__rate_interval` is then 8 s, and a quantile has more than a handful of requests to go by."""

Target = tuple[str, str]
"""PromQL and legend."""


@dataclass(frozen=True)
class About:
    """What every panel must say of itself."""

    title: str
    look_for: str
    unit: str = "short"


def _query(target: Target, letter: int) -> prometheus.Dataquery:
    expr, legend = target
    query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + letter))
    return (query.interval(RATE_STEP) if "$__rate_interval" in expr else query).datasource(SOURCE)


def _steps(*steps: tuple[float | None, str]) -> build.ThresholdsConfig:
    marks = [models.Threshold(value=value, color=color) for value, color in steps]
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(marks)


def _colors(mode: models.FieldColorModeId) -> build.FieldColor:
    return build.FieldColor().mode(mode)


def lines(
    about: About,
    *targets: Target,
    w: int = 8,
    h: int = 6,
    stacked: bool = False,
    max_value: float | None = None,
    limit: float | None = None,
) -> timeseries.Panel:
    """Values over time. `limit` draws the line beyond which something is wrong."""
    calcs = ["lastNotNull", "max"] if w >= 12 else ["lastNotNull"]
    legend = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).calcs(calcs)
    panel = (
        timeseries.Panel()
        .title(about.title)
        .description(about.look_for)
        .unit(about.unit)
        .datasource(SOURCE)
        .span(w)
        .height(h)
        .min(0)
        .fill_opacity(20 if stacked else 6)
        .line_width(1.5)
        .span_nulls(30_000)  # few requests a second leave gaps; a run that ended leaves a longer one
        .show_points(kinds.VisibilityMode.AUTO)
        .color_scheme(_colors(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(legend.placement(kinds.LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(
            common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
        )
        .targets([_query(target, letter) for letter, target in enumerate(targets)])
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    if max_value is not None:
        panel = panel.max(max_value)
    if limit is not None:
        style = common.GraphThresholdsStyleConfig().mode(kinds.GraphTresholdsStyleMode.DASHED)
        panel = panel.thresholds(_steps((None, "transparent"), (limit, "red"))).thresholds_style(style)
    return panel


def number(
    about: About,
    *targets: Target,
    w: int = 3,
    h: int = 3,
    steps: Sequence[tuple[float | None, str]] = ((None, "text"),),
    words: dict[str, tuple[str, str]] | None = None,
    decimals: int | None = None,
) -> stat.Panel:
    """The newest value, large. `words` maps a value to a text and a colour."""
    panel = (
        stat.Panel()
        .title(about.title)
        .description(about.look_for)
        .unit(about.unit)
        .datasource(SOURCE)
        .span(w)
        .height(h)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_scheme(_colors(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_steps(*steps))
        .targets([_query(target, letter) for letter, target in enumerate(targets)])
    )
    if words:
        results = {
            value: models.ValueMappingResult(text=text, color=color) for value, (text, color) in words.items()
        }
        panel = panel.mappings([models.ValueMap(options=results)])
    return panel if decimals is None else panel.decimals(decimals)


def bars(about: About, *targets: Target, w: int = 8, h: int = 7, decimals: int = 2) -> bargauge.Panel:
    """One bar a configuration, over the whole selected time."""
    return (
        bargauge.Panel()
        .title(about.title)
        .description(about.look_for)
        .unit(about.unit)
        .decimals(decimals)
        .datasource(SOURCE)
        .span(w)
        .height(h)
        .min(0)
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .value_mode(kinds.BarGaugeValueMode.TEXT)
        .show_unfilled(True)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .color_scheme(_colors(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .thresholds(_steps((None, "blue")))
        .targets([_query(target, letter).instant() for letter, target in enumerate(targets)])
    )


@dataclass(frozen=True)
class Column:
    """One column of a table: a value for each row's labels."""

    title: str
    expr: str
    unit: str
    decimals: int | None = None


def rows(
    about: About, labels: dict[str, str], columns: Sequence[Column], w: int = 24, h: int = 6
) -> table.Panel:
    """Build a table: a row for each combination of `labels` (label → heading), a column for each query."""
    letters = [chr(ord("A") + n) for n in range(len(columns))]
    names = {
        **labels,
        **{f"Value #{letter}": column.title for letter, column in zip(letters, columns, strict=True)},
    }
    order = {name: n for n, name in enumerate(names)}
    organize = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}
    panel = (
        table.Panel()
        .show_header(True)
        .cell_height(kinds.TableCellHeight.SM)
        .title(about.title)
        .description(about.look_for)
        .datasource(SOURCE)
        .span(w)
        .height(h)
        .targets(
            [
                _query((c.expr, c.title), n).instant().format(PromQueryFormat.TABLE)
                for n, c in enumerate(columns)
            ]
        )
        .with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(models.DataTransformerConfig(id_val="organize", options=organize))
    )
    for column in columns:
        panel = panel.override_by_name(column.title, _cell(column))
    return panel


def _cell(column: Column) -> list[models.DynamicConfigValue]:
    unit = models.DynamicConfigValue(id_val="unit", value=column.unit)
    if column.decimals is None:
        return [unit]
    return [unit, models.DynamicConfigValue(id_val="decimals", value=column.decimals)]


Part = Builder[models.Panel] | str
"""A panel, or the heading of a row."""


def board(
    name: str,
    title: str,
    look_for: str,
    parts: Sequence[Part],
    *,
    since: str,
    extra: Sequence[Builder[models.VariableModel]] = (),
) -> models.Dashboard:
    """Put panels under the variables, links and annotations that all dashboards share."""
    frame = (
        build.Dashboard(title)
        .uid(f"{TAG}-{name}")
        .description(look_for)
        .tags([TAG])
        .editable()
        .refresh("5s")
        .time(since, "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(_others())
    )
    for variable in [_source(), *map(_variable, ("config", "model", "run")), *extra]:
        frame = frame.with_variable(variable)
    for mark in _marks():
        frame = frame.annotation(mark)
    for part in parts:
        frame = frame.with_row(build.Row(part)) if isinstance(part, str) else frame.with_panel(part)
    return _numbered(frame.build())


def _numbered(dashboard: models.Dashboard) -> models.Dashboard:
    for number_, panel in enumerate(dashboard.panels or [], start=1):
        panel.id_val = number_
    return dashboard


def _others() -> build.DashboardLink:
    link = build.DashboardLink("Thinkload").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(False).include_vars(True).keep_time(True)


def _source() -> build.DatasourceVariable:
    return build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


_FILTERS = {
    "config": "label_values(vllm:num_requests_running, config)",
    "model": 'label_values(vllm:num_requests_running{config=~"$config"}, model)',
    "run": 'label_values(vllm:num_requests_running{config=~"$config", model=~"$model"}, run)',
}
"""From one of vLLM's own metrics: `label_values(model)` alone would list other exporters' too."""


def _variable(name: str) -> build.QueryVariable:
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return choice(name, name.capitalize(), _FILTERS[name]).current(everything)


def choice(name: str, label: str, query: str) -> build.QueryVariable:
    """Build a variable of any number of a label's values, at first all."""
    return (
        build.QueryVariable(name)
        .label(label)
        .query({"query": query, "refId": f"variable-{name}"})
        .datasource(SOURCE)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


class _Region(models.AnnotationQuery):
    """An annotation from start to end of a series. The SDK does not type what Grafana's Prometheus annotations add."""

    def __init__(self, name: str, color: str, expr: str, text: str) -> None:
        super().__init__(name=name, datasource=SOURCE, enable=True, icon_color=color, expr=expr)
        self._added = {"titleFormat": name, "textFormat": text, "step": "1s"}

    def to_json(self) -> dict[str, object]:
        return {**super().to_json(), **self._added}


class _Made(Builder[models.AnnotationQuery]):
    def __init__(self, made: models.AnnotationQuery) -> None:
        self._made = made

    def build(self) -> models.AnnotationQuery:
        return self._made


def _marks() -> list[Builder[models.AnnotationQuery]]:
    chosen = 'thinkload:client_run{config=~"$config", model=~"$model", run=~"($run).*"} ^ 0'
    cell = f"sum by (instance, cell) (loadgen_cell_info) * on (instance) group_left (config, run) ({chosen})"
    return [
        _Made(
            _Region(
                "Run", "blue", f"sum by (run, config, model) ({chosen})", "run {{run}}: {{config}}, {{model}}"
            )
        ),
        _Made(_Region("Cell", "purple", cell, "cell {{cell}}: {{config}}")),
    ]


Board = Callable[[], models.Dashboard]
