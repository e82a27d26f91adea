"""Dashboards: written as Grafana reads them, over metrics that there are, and none of these left out."""

import json
import re
import subprocess
import sys

import pytest

from qflare.errors import ConfigError
from qflare.service.dashboards.boards import BOARDS
from qflare.service.dashboards.writing import encode, rules_text, write
from qflare.service.metrics.catalogue import BY_NAME
from service.expressions import charts, names_in, names_shown

GRID = 24


def test_every_metric_stands_on_a_dashboard():
    """What is counted is shown, and what is shown is counted."""
    shown = {name for _, query in charts() for name in names_in(query.expression)}
    assert shown <= names_shown()
    assert {re.sub("_(bucket|count|sum)$", "", name) if name not in BY_NAME else name for name in shown} == set(BY_NAME)


def test_legends_use_labels_that_there_are():
    """A label in a legend or behind `by` is one of the metric's, or one that Prometheus adds."""
    for chart, query in charts():
        known = {"job", "instance", "le"}
        for name in names_in(query.expression):
            known |= set((BY_NAME.get(name) or BY_NAME[re.sub("_(bucket|count|sum)$", "", name)]).labels)
        used = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
        for group in re.findall(r"by \(([^)]*)\)", query.expression):
            used |= set(re.split(r",\s*", group))
        assert used <= known, (chart.title, used - known)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_a_dashboard_is_what_grafana_reads(board):
    """Panels lie on the grid without overlap, name their source by a variable, and have one target an expression."""
    page = json.loads(encode(board))
    assert page["uid"] == board.name
    assert [variable["name"] for variable in page["templating"]["list"]] == ["source", "job"]
    taken = set()
    panels = [panel for panel in page["panels"] if panel["type"] != "row"]
    assert [chart.title for row in board.rows for chart in row.charts] == [panel["title"] for panel in panels]
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        taken |= cells
        assert panel["datasource"]["uid"] == "${source}"
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names) > 0


def test_the_command_writes_dashboards_and_rules(tmp_path):
    """`qflare dashboards FOLDER` writes each dashboard and the alert rules, twice the same bytes."""
    command = [sys.executable, "-m", "qflare", "dashboards", str(tmp_path), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(json.loads(run.stdout)["files"]) == sorted(str(tmp_path / name) for name in written)
    assert written.keys() == {*(f"{board.name}.json" for board in BOARDS), "qflare.rules.yml"}
    assert written["qflare.rules.yml"].decode() == rules_text()
    write(tmp_path)
    assert written == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_folder_that_is_none_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no folder; make it first"):
        write(tmp_path / "missing")
