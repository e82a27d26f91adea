"""`qflare bench`: run the suite of the source tree, then make table, JSON and plot of what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError, MissingExtraError
from qflare.service.bench.claim import Claim
from qflare.service.bench.machine import load_now
from qflare.service.bench.plot import render_plot
from qflare.service.bench.table import as_markdown, as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA: Final = "qflare-bench-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What a run measured, and where it was written."""

    claims: tuple[Claim, ...]
    machine: Mapping[str, object]
    json_path: Path
    plot_path: Path
    markdown_path: Path

    @property
    def text(self) -> str:
        """The table for a terminal."""
        return as_text(self.claims, self.machine)

    def to_json(self) -> dict[str, object]:
        """Return what stands in the JSON file."""
        return {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "claims": [claim.to_json() for claim in self.claims],
        }


def run_bench(
    json_path: Path, plot_path: Path, *, is_quick: bool = False, only: str | None = None, folder: Path | None = None
) -> BenchReport:
    """
    Run the benchmarks and write their figures.

    Args:
        json_path: Where the JSON goes; the table goes beside it as Markdown.
        plot_path: Where the PNG goes.
        is_quick: Few, short rounds: shows that everything runs, its figures mean little.
        only: An expression of pytest's ``-k`` that chooses benchmarks.
        folder: The source tree's `benchmarks`; looked for if not given.

    Raises:
        ConfigError: there are no benchmarks here, a path cannot be written, or a benchmark failed.
        MissingExtraError: pytest-benchmark is not installed.
    """
    suite = folder or find_benchmarks()
    for package in ("pytest", "pytest_benchmark"):
        if find_spec(package) is None:
            raise MissingExtraError(feature="qflare bench", extra="bench", package=package.replace("_", "-"))
    for path in (json_path, plot_path):
        _require_writable(path)
    began = load_now()
    with tempfile.TemporaryDirectory(prefix="qflare-bench-") as scratch:
        found = Path(scratch) / "benchmarks.json"
        _run_suite(suite, found, is_quick=is_quick, only=only)
        claims, machine = read_results(found)
    machine |= {"began": began, "ended": load_now()}
    if is_quick:
        machine["mode"] = "quick run: too few rounds for figures to be quoted"
    report = BenchReport(
        claims=claims,
        machine=machine,
        json_path=json_path,
        plot_path=plot_path,
        markdown_path=json_path.with_suffix(".md"),
    )
    json_path.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    report.markdown_path.write_text(as_markdown(claims, machine), encoding="utf-8")
    plot_path.write_bytes(render_plot(claims, machine))
    return report


def find_benchmarks() -> Path:
    """
    Return the folder of the suite: of the working directory, else of the tree this package is run from.

    Raises:
        ConfigError: there is none: an installed wheel carries no benchmarks.
    """
    for root in (Path.cwd(), *Path(__file__).resolve().parents[4:5]):
        if (root / "benchmarks" / "raw_liboqs.c").is_file():
            return root / "benchmarks"
    raise ConfigError("no benchmarks here: run `make bench`, or `qflare bench` in a clone of the source tree")


def read_results(path: Path) -> tuple[tuple[Claim, ...], dict[str, object]]:
    """
    Read what pytest-benchmark wrote: every claim in its order, and the machine.

    Raises:
        DecodeError: the file holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        machine = dict(content["machine_info"]["qflare"])
        claims: list[Claim] = []
        for benchmark in content["benchmarks"]:
            extra = benchmark["extra_info"]
            claims += [Claim.from_json(fields) for fields in extra["claims"]]
            machine |= extra.get("machine", {})
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DecodeError(f"{path} holds no results of the benchmarks ({error!r}): run them again") from None
    return tuple(claims), machine


def _run_suite(suite: Path, found: Path, *, is_quick: bool, only: str | None) -> None:
    command = [
        sys.executable, "-m", "pytest", str(suite), f"--benchmark-json={found}", "--benchmark-quiet",
        "-p", "no:cacheprovider", "-q", "--no-header",
    ]  # fmt: skip
    if is_quick:
        command.append("--quick")
    if only is not None:
        command += ["-k", only]
    # Progress goes to stderr: stdout is the table's, or a script's JSON.
    status = subprocess.run(command, cwd=suite.parent, stdout=sys.stderr, check=False).returncode  # noqa: S603 - our own program
    if status != 0:
        raise ConfigError(f"the benchmarks ended with status {status}: see their output above")


def _require_writable(path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error.strerror}): choose another folder") from None
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"{path} cannot be written: choose another file")
