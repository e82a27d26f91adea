"""What rules and dashboards ask Prometheus for."""

import re

from qflare.service.dashboards.boards import BOARDS
from qflare.service.metrics.catalogue import CATALOGUE
from qflare.service.metrics.metric import Kind

WITHOUT_SERIES = {
    "qflare_audit_failures_total",
    "qflare_http_refusals_total",
    "qflare_responses",
    "qflare_turn_steps",
    "qflare_turn_steps_done",
    "qflare_turn_seconds",
    "qflare_turn_chain_keys",
    "qflare_turn_bucket_index",
}
"""What a server that has just begun does not have yet: there was no failure, no turn and no bad request."""


def names_in(text):
    """Return the metrics that an expression names."""
    return set(re.findall(r"\bqflare_[a-z0-9_]+", text))


def names_shown():
    """Return every name that series of the catalogue have."""
    plain = {metric.name for metric in CATALOGUE if metric.kind is not Kind.HISTOGRAM}
    histograms = [metric.name for metric in CATALOGUE if metric.kind is Kind.HISTOGRAM]
    return plain | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


def charts():
    """Yield every panel with each of its queries."""
    for board in BOARDS:
        for row in board.rows:
            for chart in row.charts:
                for query in chart.queries:
                    yield chart, query


def as_grafana_asks(expression):
    """Return an expression with Grafana's variables replaced."""
    replaced = expression.replace("$job", "qflare").replace("$__rate_interval", "1m")
    assert "$" not in replaced, replaced
    return replaced
