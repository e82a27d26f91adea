"""
Write a run's report: a self-contained page of HTML, a PNG for places that show no page, and the result as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError
from qflare.service.demo.page import render_page
from qflare.service.demo.plot import render_plot
from qflare.service.demo.result import DemoResult, to_json

if TYPE_CHECKING:
    from pathlib import Path

HTML_NAME: Final = "report.html"
PNG_NAME: Final = "report.png"
JSON_NAME: Final = "result.json"


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where the report was written, absolute."""

    html: Path
    png: Path
    json: Path


def report_paths(folder: Path) -> ReportPaths:
    """Return where `write_report` puts its files, so that the result can name them before they exist."""
    folder = folder.resolve()
    return ReportPaths(html=folder / HTML_NAME, png=folder / PNG_NAME, json=folder / JSON_NAME)


def write_report(result: DemoResult, folder: Path) -> ReportPaths:
    """
    Write the report of *result* into *folder*, which is made if missing; an older report there is replaced.

    Everything is rendered before the first file is written.

    Raises:
        ConfigError: The folder cannot be made or written.
        MissingExtraError: matplotlib is not installed.
    """
    paths = report_paths(folder)
    contents = {
        paths.html: render_page(result).encode(),
        paths.png: render_plot(result),
        paths.json: (to_json(result) + "\n").encode(),
    }
    try:
        paths.html.parent.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            partial = path.with_name(path.name + ".part")
            partial.write_bytes(content)
            partial.replace(path)
    except OSError as error:
        message = f"cannot write the report to {folder}: {error.strerror}; choose another folder"
        raise ConfigError(message) from None
    return paths
