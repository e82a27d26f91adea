"""Dashboards as files that Grafana imports, written by its own SDK, and the alert rules beside them."""

from __future__ import annotations

from importlib.resources import files
from string import ascii_uppercase
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, MissingExtraError
from qflare.service.dashboards.boards import BOARDS

try:
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TimeZoneBrowser
    from grafana_foundation_sdk.models.dashboard import DataSourceRef
except ImportError:
    raise MissingExtraError(feature="qflare dashboards", extra="dashboards", package="grafana-foundation-sdk") from None

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.service.dashboards.board import Board, Chart

RULES: Final = "qflare.rules.yml"
_WIDTH: Final = 8
"""Of the 24 columns of a page: three panels beside each other."""
_HEIGHT: Final = 8


def write(folder: Path) -> tuple[Path, ...]:
    """
    Write every dashboard and the alert rules into *folder*, over those that are there; return the files.

    Raises:
        ConfigError: *folder* is no folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; make it first")
    written: list[Path] = []
    for board in BOARDS:
        path = folder / f"{board.name}.json"
        path.write_text(encode(board), encoding="utf-8")
        written.append(path)
    rules = folder / RULES
    rules.write_text(rules_text(), encoding="utf-8")
    return (*written, rules)


def rules_text() -> str:
    """Return the alert rules as they are shipped."""
    return (files("qflare") / "service" / "alerts" / RULES).read_text(encoding="utf-8")


def encode(board: Board) -> str:
    """Return *board* as Grafana's JSON; the data source and the job are chosen on its page."""
    page = (
        dashboard.Dashboard(board.title)
        .uid(board.name)
        .tags(["qflare", "generated"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone(TimeZoneBrowser)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("job")
            .label("Job")
            .datasource(_source())
            .query("label_values(qflare_workers, job)")
            .include_all(True)
            .multi(True)
        )
    )
    for row in board.rows:
        page = page.with_row(dashboard.Row(row.title))
        for chart in row.charts:
            page = page.with_panel(_panel(chart))
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(page.build())
    return text + "\n"


def _panel(chart: Chart) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(chart.title)
        .description(chart.about)
        .unit(chart.unit)
        .min(0)
        .span(_WIDTH)
        .height(_HEIGHT)
        .datasource(_source())
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for name, query in zip(ascii_uppercase, chart.queries, strict=False):
        target = prometheus.Dataquery().ref_id(name).expr(query.expression).legend_format(query.legend)
        panel = panel.with_target(target)
    return panel


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid="${source}")
