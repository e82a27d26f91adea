"""docs/protocol.md agrees with itself, with the labels and sizes of the code, and has every step id."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qflare.protocol import labels, wire

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
STEPS = {
    "N": range(1, 6), "A": range(1, 6), "H": range(1, 11), "O": range(1, 5), "R": range(1, 10),
    "E": range(1, 6), "K": range(1, 5),
}  # fmt: skip
RESERVED = {"R8"}
STATED_ELSEWHERE = {"N4", "O4", "E5", "K4"}  # a rule for callers or readers, with no code of its own in protocol/


def tables() -> list[tuple[str, list[tuple[int, int]], str]]:
    """Every byte table as (what stands before it, (offset, bytes) of its numeric rows, what stands after it)."""
    found = []
    for match in re.finditer(r"\| offset \| bytes \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT):
        rows = []
        for line in match[1].splitlines():
            offset, size = (cell.strip() for cell in line.strip("|").split("|")[:2])
            if offset.isdigit() and size.isdigit():
                rows.append((int(offset), int(size)))
        found.append((TEXT[: match.start()][-200:], rows, TEXT[match.end() :][:200]))
    return found


def test_every_byte_table_is_gapless() -> None:
    """Each field of a byte table begins where the one before ends, the first at 0."""
    assert len(tables()) >= 17
    for before, rows, _ in tables():
        end = 0
        for offset, size in rows:
            assert offset == end, before
            end += size


def test_every_stated_total_is_the_sum_of_its_table() -> None:
    """A total that is stated as one number is the end of the last field."""
    checked = 0
    for before, rows, after in tables():
        total = re.match(r"\n?(?:Total )?(\d+)(?: bytes)?(?=[;.])", after)
        if total:
            assert rows[-1][0] + rows[-1][1] == int(total[1]), before
            checked += 1
    assert checked >= 11


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("M1", wire.M1_BYTES),
        ("M2", wire.M2_BYTES),
        ("M3", wire.M3_BYTES),
        ("OFFER", wire.OFFER_BYTES),
        ("ANSWER", wire.ANSWER_BYTES),
        ("ENROL", wire.ENROL_BYTES),
        ("ENROLLED", wire.ENROLLED_BYTES),
        ("refused", wire.REFUSED_BYTES),
        ("announcement", wire.ANNOUNCEMENT_BYTES),
        ("descriptor", wire.MAPPING_BYTES),
        ("M4", wire.M4_BYTES_MIN),
        ("CERT", wire.CERTIFICATE_BYTES_MIN - 1),
    ],
)
def test_message_sizes_are_those_of_the_code(name: str, size: int) -> None:
    """The sizes in N3 are the sizes that the code takes."""
    row = re.search(rf"^\| [^|]+ \| {name} \| [a-z]+ \| (\d+)", TEXT, re.MULTILINE)
    assert row is not None
    assert int(row[1]) == size


@pytest.mark.parametrize(
    ("row", "values"),
    [
        ("first part of H", labels.HASH_LABELS),
        ("label of Expand", labels.EXPAND_LABELS),
        ("context of SIG", [one for one in labels.SIGNATURE_CONTEXTS if one]),
        ("magic", labels.MAGICS),
        ("purpose", labels.PURPOSES),
    ],
)
def test_label_table_is_that_of_the_code(row: str, values: list[str | bytes]) -> None:
    """The labels in N1 are the labels of the code, each once."""
    line = re.search(rf"^\| {row} \| (.*) \|$", TEXT, re.MULTILINE)
    assert line is not None
    listed = re.findall(r"`([^`]+)`", line[1])
    wanted = [one.decode("ascii") if isinstance(one, bytes) else one for one in values]
    assert sorted(listed) == sorted(wanted)


def test_every_step_has_a_heading() -> None:
    """Each step id of the design is one heading, in order."""
    headings = re.findall(r"^### ([NAHOREK]\d+) ", TEXT, re.MULTILINE)
    assert headings == [f"{letter}{n}" for letter, numbers in STEPS.items() for n in numbers]


def test_every_step_stands_in_the_code() -> None:
    """Each step id but the reserved ones is named in src/qflare/protocol or in the primitives below it."""
    folders = [ROOT / "src" / "qflare" / name for name in ("protocol", "primitives")]
    code = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in folder.glob("*.py"))
    named = set(re.findall(r"\b([NAHOREK]\d+)\b", code))
    wanted = {f"{letter}{n}" for letter, numbers in STEPS.items() for n in numbers}
    assert wanted - RESERVED - STATED_ELSEWHERE <= named


def test_every_cited_test_exists() -> None:
    """Section T names files and tests that are there."""
    cited = re.findall(r"`(tests/[a-z0-9_/]+\.py)(?:::([a-z0-9_]+))?`", TEXT[TEXT.index("\n## T. ") :])
    assert len(cited) >= 30
    for path, name in cited:
        code = (ROOT / path).read_text(encoding="utf-8")
        assert not name or re.search(rf"^(async )?def {name}\(", code, re.MULTILINE), f"{path}::{name}"


def test_peer_shares_no_code_with_the_project() -> None:
    """The second implementation imports its own modules, cryptography, pycryptodome and the standard library only."""
    allowed = {"cryptography", "Crypto"}
    for path in (ROOT / "tests" / "peer").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top in allowed or top in STANDARD, f"{path.name} imports {name}"


STANDARD = {
    "__future__", "base64", "binascii", "collections", "dataclasses", "hashlib", "hmac", "secrets",
    "typing", "unicodedata",
}  # fmt: skip
