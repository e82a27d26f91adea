"""
Official vector sets: where they lie, and which of them this run went through.

The files are data of the workspace, ../shared/vectors beside the project, read and never copied.  Where that folder is
absent the tests that need it are skipped, and every set that did not run is named at the end of the run; sets of the
package cryptography-vectors run everywhere.
"""

import gzip
import json
from importlib.resources import files
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "vectors"

_ran: dict[str, str] = {}
_absent: set[str] = set()


def vector_path(name: str) -> Path:
    """Return the path of set *name*, e.g. ``wycheproof/aes_gcm_test.json``; skip the test if it is not there."""
    path = SHARED / name
    if not path.is_file():
        _absent.add(name)
        pytest.skip(f"{name} is not here: ../shared/vectors is absent")
    return path


def vector_json(name: str):
    """Read a JSON set."""
    return json.loads(vector_path(name).read_text())


def vector_text(name: str) -> str:
    """Read a text set, unpacking ``.gz``."""
    path = vector_path(name)
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    return path.read_text()


def package_text(name: str) -> str:
    """Read a set of the package cryptography-vectors, which is there on every machine that runs the suite."""
    return (files("cryptography_vectors") / name).read_text()


def records(text: str) -> list[dict[str, str]]:
    """Split NIST's ``.rsp`` text into records, which blank lines or a new ``count`` end; ``[NAME = value]`` goes on."""
    found: list[dict[str, str]] = []
    section: dict[str, str] = {}
    record: dict[str, str] = {}
    for raw in [*text.splitlines(), ""]:
        line = raw.strip()
        if line.startswith("["):
            key, _, value = line.strip("[]").partition("=")
            section = {**section, key.strip(): value.strip()}
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            if key.strip() == "count" and record:  # some files have no blank line between records
                found.append({**section, **record})
                record = {}
            record[key.strip()] = value.strip()
        elif not line and record:
            found.append({**section, **record})
            record = {}
    return found


def report(name: str, *, ran: int, left_out: str = "", against: str = "QFLARE") -> None:
    """Note that *ran* cases of set *name* ran *against* what, and say in words what was *left_out* and why."""
    others = "" if against == "QFLARE" else f" against {against}"
    _ran[name] = f"{ran} cases{others}" + (f"; left out: {left_out}" if left_out else "")


def summary_lines() -> list[str]:
    """Say what ran and what did not, for the end of the run."""
    lines = [f"ran      {name}: {what}" for name, what in sorted(_ran.items())]
    return lines + [f"NOT RUN  {name}: ../shared/vectors is absent" for name in sorted(_absent)]
