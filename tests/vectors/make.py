"""
Write docs/vectors/*.json from src/.

    .venv/bin/python -m tests.vectors.make
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .enrol_cases import enrol_cases
from .handshake_cases import hello_cases, offer_cases
from .identity_cases import identity_cases, notation_cases
from .mapping_cases import mapping_cases
from .receipt_cases import receipt_cases
from .record_cases import record_cases
from .rekey_cases import rekey_cases
from .stream import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stream import Value

FOLDER = Path(__file__).parents[2] / "docs" / "vectors"

FILES: dict[str, tuple[str, str, Callable[[], list[Value]]]] = {
    "notation.json": ("H, Extract and Expand", "N1", notation_cases),
    "identity.json": ("server_id, CERT, announcements, ref", "A1, A3, H2", identity_cases),
    "hello.json": ("M1 to M4 with every intermediate value", "H1 to H10", hello_cases),
    "offer.json": ("OFFER, ANSWER and M4 with every intermediate value", "O1 to O3, H8 to H10", offer_cases),
    "enrol.json": ("token, ENROL, ENROLLED and ROTATE with every intermediate value", "E1 to E4", enrol_cases),
    "mapping.json": ("a mapping and its next generation", "K1 to K3", mapping_cases),
    "records.json": ("chain keys, message keys and records of one session", "R1, R2, R3", record_cases),
    "rekeys.json": ("rekeys of one session, requests and late replies", "R6, R7", rekey_cases),
    "receipts.json": ("inclusion, cosigned message and receipt", "H9", receipt_cases),
}


def make_file(name: str) -> str:
    """The text of one file."""
    description, source, cases = FILES[name]
    content = {"description": description, "source": f"docs/protocol.md, {source}", "cases": plain(cases())}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every file."""
    for name in FILES:
        (FOLDER / name).write_text(make_file(name), encoding="utf-8")


if __name__ == "__main__":
    main()
