"""
Proofs that an entry is in the log, as text that other tools read: C2SP's tlog-proof.

The extra line holds the entry's leaf hash, which nobody has to believe: with the path it must lead to the signed root.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, LengthError
from qflare.protocol.checkpoint import NOTE_BYTES_MAX, decode_note_body, unverified_checkpoint
from qflare.protocol.log import HASH_BYTES, path_length
from qflare.protocol.receipt import encode_receipt

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
_PATH_MAX: Final = 63
PROOF_CHARS_MAX: Final = NOTE_BYTES_MAX + (1 << 16)
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """A proof taken apart; nothing in it is verified."""

    index: int
    leaf_hash: bytes | None
    """From the extra line, if that holds 32 bytes."""
    path: tuple[bytes, ...]
    note: str

    def receipt(self) -> bytes:
        """
        Return it as a receipt (docs/audit.md), with the log's own signature in the note.

        Raises:
            DecodeError: the note has none that can be the log's.
        """
        checkpoint = unverified_checkpoint(self.note)
        return encode_receipt(self.index, checkpoint.size, checkpoint.time_s, self.path, checkpoint.signature)


def encode_proof(index: int, leaf_hash: bytes, path: Sequence[bytes], note: str) -> str:
    """
    Write a proof.

    Args:
        index: Zero-based index of the entry.
        leaf_hash: Its leaf hash, 32 bytes.
        path: Inclusion hashes from the leaf's sibling upwards.
        note: The checkpoint as a signed note.

    Raises:
        LengthError: a hash is not 32 bytes.
    """
    for each in (leaf_hash, *path):
        if len(each) != HASH_BYTES:
            name = "hash"
            raise LengthError(name, expected=HASH_BYTES, actual=len(each))
    lines = [FIRST_LINE, f"extra {_base64(leaf_hash)}", f"index {index}", *map(_base64, path), "", note]
    return "\n".join(lines)


def decode_proof(text: str) -> LogProof:
    """
    Take a proof apart.

    Raises:
        DecodeError: it is none, or its path has not the length that index and size demand.

    Source: C2SP tlog-proof, "Format".
    """
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if len(text) > PROOF_CHARS_MAX or not separator or lines[0] != FIRST_LINE or len(lines) > _PATH_MAX + 3:
        message = f"a proof is a line {FIRST_LINE!r}, an index, hashes, an empty line and a checkpoint note"
        raise DecodeError(message)
    extra: bytes | None = None
    rest = lines[1:]
    if rest and rest[0].startswith("extra "):
        extra, rest = _bytes(rest[0].removeprefix("extra ")), rest[1:]
    found = _INDEX.fullmatch(rest[0]) if rest else None
    path = tuple(_bytes(line) for line in rest[1:])
    if found is None or any(len(each) != HASH_BYTES for each in path):
        message = "a proof has an index line, a decimal number without leading zeros, and base64 hashes of 32 bytes"
        raise DecodeError(message)
    index, size = int(found[1]), decode_note_body(note).size
    if not index < size or len(path) != path_length(index, size):
        message = f"a proof for entry {index} of {size} has another number of hashes than {len(path)}, or there is none"
        raise DecodeError(message)
    return LogProof(
        index=index, leaf_hash=extra if extra is not None and len(extra) == HASH_BYTES else None, path=path, note=note
    )


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        decoded = None
    if decoded is None or _base64(decoded) != text:
        message = "a line of the proof is not base64"
        raise DecodeError(message)
    return decoded
