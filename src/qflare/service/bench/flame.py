"""A flame graph of what a benchmark does in Python and C: where the rest of the time goes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from qflare.errors import ConfigError, MissingExtraError
from qflare.service.bench.run import find_benchmarks

SAMPLES_PER_S: Final = 400


def draw_flames(svg: Path, *, only: str) -> None:
    """
    Run the benchmarks that *only* chooses (pytest's -k) under py-spy, and write their flame graph.

    Raises:
        ConfigError: no benchmarks here, the file cannot be written, or the run or the sampling failed.
        MissingExtraError: py-spy is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    sampler = str(beside) if beside.exists() else shutil.which("py-spy")
    if sampler is None:
        raise MissingExtraError(feature="qflare bench flame", extra="bench", package="py-spy")
    suite = find_benchmarks()
    try:
        svg.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{svg.parent} cannot be made ({error.strerror}): choose another folder") from None
    command = [
        sampler, "record", "--native", "--format", "flamegraph", "--rate", str(SAMPLES_PER_S),
        "--output", str(svg), "--",
        sys.executable, "-m", "pytest", str(suite), "-k", only, "--quick", "-q", "-p", "no:cacheprovider",
    ]  # fmt: skip
    status = subprocess.run(command, cwd=suite.parent, stdout=sys.stderr, check=False).returncode  # noqa: S603 - our own programs
    if status != 0 or not svg.is_file():
        raise ConfigError(f"py-spy ended with status {status}: see above; sampling needs the right to trace processes")
