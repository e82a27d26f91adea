"""What a dashboard shows: rows of panels, each with its expressions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel, and how its series are named."""

    expression: str
    """PromQL, with Grafana's `$job` and `$__rate_interval`."""
    legend: str
    """With labels in double braces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One panel of lines over time."""

    title: str
    about: str
    """What it means, and what to look for."""
    unit: str
    """Grafana's name of the unit."""
    queries: tuple[Query, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under one heading."""

    title: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard."""

    name: str
    """Of its file and its address."""
    title: str
    rows: tuple[Row, ...]
