"""Footprint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from raw import FOLDER, ROOT
from server import Server, good

from qflare.service.bench.spread import differences
from qflare.service.exchange import SessionKeyRequest

KILOBYTE, MEGABYTE = 1000, 10**6


@pytest.mark.parametrize("statement", ["import qflare", "from qflare import Device"])
def test_import(bench, statement):
    """What an import takes beyond starting Python."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-c", code], check=True, capture_output=True)  # noqa: S603 - this Python
        return time.perf_counter() - start

    seconds(statement)  # compiles what is not compiled yet
    rounds = bench.rounds_of(lambda: (seconds(statement), seconds("pass")), rounds=3 if bench.is_quick else 15)
    spread = differences(rounds.measured, rounds.reference)
    note = f"Python by itself: {min(rounds.reference) * 1e3:.0f} ms"
    values = [(mine - theirs) * 1e3 for mine, theirs in zip(rounds.measured, rounds.reference, strict=True)]
    assert spread.rounds == len(values)
    if statement == "import qflare":
        bench.at_most(statement, values, "ms", 30, note=note)
    else:
        bench.figure(statement, values, "ms", note=f"{note}; loads the C core and cryptography")


def test_wheel(bench):
    """Sizes of both wheels, and of what a device installs with its own."""
    sizes: dict[str, tuple[int, int]] = {}

    def build() -> None:
        sizes["device"] = _wheel_sizes({"QFLARE_WHEEL": "device"})
        sizes["full"] = _wheel_sizes({})

    bench.once(build)
    note = "liboqs in it; kB of 1,000 bytes"
    bench.at_most("wheel for devices", [sizes["device"][0] / KILOBYTE], "kB", 400, note=note)
    bench.figure("wheel with the server", [sizes["full"][0] / KILOBYTE], "kB")
    needed = _needed("qflare", set())
    installed = sizes["device"][1] + sum(_installed_size(name) for name in needed)
    bench.at_most(
        "what a device installs", [installed / MEGABYTE], "MB", 25, note=f"qflare and {', '.join(sorted(needed))}"
    )


def _wheel_sizes(environment: dict[str, str]) -> tuple[int, int]:
    """Build a wheel and return its size, and that of what it unpacks to, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"),
            *("--disable-pip-version-check", "-C", f"build-dir={FOLDER / 'wheel'}", "-w", folder),
        ]
        subprocess.run(command, check=True, env={**os.environ, **environment})  # noqa: S603 - pip
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return wheel.stat().st_size, sum(entry.file_size for entry in archive.infolist())


def test_session_memory(bench, server: Server):
    """What one live session takes in a worker's memory."""
    count = 256 if bench.is_quick else 2048
    done = good(server.run(server.manager.confirm_many(server.m3s(count))))
    requests = [SessionKeyRequest(session_id=one.session_id, purpose="bench") for one in done]
    held: list[float] = []

    def touch() -> None:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for key in good(server.run(server.manager.derive_session_keys_many(requests))):
            key.wipe()
        key = None
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        held.append((after - before) / count)

    bench.once(touch)
    bench.at_most("live session in a worker", held, "bytes", 600, note=f"tracemalloc, {count:,} sessions touched once")


def _needed(package: str, found: set[str]) -> set[str]:
    """Return what *package* requires without extras, and what that requires."""
    for requirement in distribution(package).requires or ():
        name, _, marker = requirement.partition(";")
        if "extra ==" in marker or "platform_python_implementation == 'PyPy'" in marker:
            continue
        match = re.match(r"[A-Za-z0-9._-]+", name)
        # A requirement of older Pythons or other systems is not installed here, and not counted.
        if match is None or match[0] in found or not _is_installed(match[0]) or "python_full_version < " in marker:
            continue
        found.add(match[0])
        _needed(match[0], found)
    return found


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except ModuleNotFoundError:
        return False
    return True


def _installed_size(package: str) -> int:
    files = distribution(package).files or []
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())
