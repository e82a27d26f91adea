"""Facts in the text format that Prometheus reads, written by prometheus-client."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, cast

from qflare.errors import MissingExtraError
from qflare.service.metrics.catalogue import CATALOGUE
from qflare.service.metrics.metric import Kind

try:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
except ImportError:
    raise MissingExtraError(feature="/metrics", extra="metrics", package="prometheus-client") from None

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector

    from qflare.service.metrics.facts import Facts, Value
    from qflare.service.metrics.metric import Metric

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"


class FactsCollector:
    """Gives facts to a registry, such as the one of an application around us."""

    def __init__(self, facts: Facts) -> None:
        """Show *facts*."""
        self._facts = facts

    def collect(self) -> Iterator[Family]:
        """Yield every metric of the catalogue; those without a value have no series."""
        for metric in CATALOGUE:
            yield _family(metric, self._facts.values.get(metric.name, {}))


def render(facts: Facts) -> bytes:
    """Return *facts* as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(cast("Collector", FactsCollector(facts)))
    page: bytes = generate_latest(registry)
    return page


def _family(metric: Metric, series: dict[tuple[str, ...], Value]) -> Family:
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(str, metric.bounds), "+Inf"]
        for labels, (*counts, total) in sorted(series.items()):
            histogram.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, (value,) in sorted(series.items()):
        family.add_metric(labels, value)
    return family
