"""`Aggregator`: the server side of QFX-1 over HTTP, as an ASGI application."""

from qflare.service.aggregator.application import Aggregator
from qflare.service.aggregator.intake import OnRecord, OnRecords, Reply
from qflare.service.aggregator.settings import AggregatorSettings

__all__ = ["Aggregator", "AggregatorSettings", "OnRecord", "OnRecords", "Reply"]
