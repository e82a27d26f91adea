"""
Exports of the audit log: a stream of records that is checked without the database (docs/audit.md, "Exports").

    "QFX1 EXPORT" ‖ version (u8) ‖ records; a record is kind (u8) ‖ length (u32) ‖ body

IDENTITY…, START, then ENTRY and CHECKPOINT records, END.  Each ENTRY carries a running hash over all entries before it,
so that whatever is edited, moved, left out or put in shows at its place.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from qflare.errors import BatchError, DecodeError
from qflare.model.ids import TenantId
from qflare.protocol.checkpoint import NOTE_BYTES_MAX
from qflare.protocol.log import HASH_BYTES, SIZE_MAX, Frontier
from qflare.protocol.wire import TENANT_BYTES, u32, u64

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAGIC: Final = b"QFX1 EXPORT"
VERSION: Final = 1
HEAD: Final = MAGIC + bytes((VERSION,))
BODY_BYTES_MAX: Final = NOTE_BYTES_MAX
"""Longest body of a record: above every leaf (65,536 bytes of data and its names) and every note."""
_RECORD_HEAD_BYTES: Final = 5
_ENTRY_HEAD_BYTES: Final = 8 + HASH_BYTES
_ROW_HEAD_BYTES: Final = 8 + TENANT_BYTES + 8


class RecordKind(IntEnum):
    """What a record holds."""

    IDENTITY = 1
    """``root vk ‖ CERT``; every one that was in force, the newest first."""
    START = 2
    """Frontier of the tree before the first entry: size and hashes."""
    ENTRY = 3
    """index (u64) ‖ running hash (32) ‖ leaf data."""
    CHECKPOINT = 4
    """A signed note over all entries before it."""
    END = 5
    """Frontier of the tree after the last entry; nothing follows."""
    ROW = 6
    """Of the entry before, in archives: index (u64) ‖ tenant_id ‖ recorded_at (u64, µs) ‖ what its row stores."""


_KINDS: Final = frozenset(RecordKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRecord:
    """An entry as an export holds it; nothing about it is verified."""

    index: int
    running: bytes
    leaf_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecord:
    """What a row held beside its leaf, as an archive holds it; nothing about it is verified."""

    index: int
    tenant_id: TenantId
    recorded_at_us: int
    stored: bytes


def encode_row(row: RowRecord) -> bytes:
    """Return the record of what an entry's row held."""
    return encode_record(RecordKind.ROW, u64(row.index) + row.tenant_id + u64(row.recorded_at_us) + row.stored)


def decode_row(body: bytes) -> RowRecord:
    """
    Read the body of a row's record.

    Raises:
        DecodeError: it is too short.
    """
    if len(body) < _ROW_HEAD_BYTES:
        message = f"a row's record has {_ROW_HEAD_BYTES} bytes before what it stores, got {len(body)}"
        raise DecodeError(message)
    return RowRecord(
        index=int.from_bytes(body[:8], "big"),
        tenant_id=TenantId(body[8 : 8 + TENANT_BYTES]),
        recorded_at_us=int.from_bytes(body[8 + TENANT_BYTES : _ROW_HEAD_BYTES], "big"),
        stored=body[_ROW_HEAD_BYTES:],
    )


def encode_record(kind: RecordKind, body: bytes) -> bytes:
    """Return one record."""
    return bytes((kind,)) + u32(len(body)) + body


def encode_frontier(frontier: Frontier) -> bytes:
    """Return the body of START or END: size (u64) ‖ hashes, largest subtree first."""
    return u64(frontier.size) + b"".join(frontier.hashes)


def decode_frontier(body: bytes) -> Frontier:
    """
    Read the body of START or END.

    Raises:
        DecodeError: there are not as many hashes as its size demands.
    """
    size = int.from_bytes(body[:8], "big")
    hashes = tuple(body[at : at + HASH_BYTES] for at in range(8, len(body), HASH_BYTES))
    if len(body) != 8 + HASH_BYTES * len(hashes) or size > SIZE_MAX or size.bit_count() != len(hashes):
        message = "a frontier is a size and one hash of 32 bytes for each bit set in it"
        raise DecodeError(message)
    return Frontier(size, hashes)


def running_before(start: bytes) -> bytes:
    """Return the running hash before the first entry: SHA-256(head ‖ body of START)."""
    return hashlib.sha256(HEAD + start).digest()


def next_running(running: bytes, leaf_hash: bytes) -> bytes:
    """Return the running hash of the next entry: SHA-256(running hash before it ‖ its leaf hash)."""
    return hashlib.sha256(running + leaf_hash).digest()


def encode_entry(index: int, running: bytes, leaf_data: bytes) -> bytes:
    """
    Return the record of one entry.

    Raises:
        BatchError: the leaf data is longer than any entry's.
    """
    if len(leaf_data) > BODY_BYTES_MAX - _ENTRY_HEAD_BYTES:
        message = f"entry {index} is longer than any that is written: {len(leaf_data)} bytes"
        raise BatchError(message)
    return encode_record(RecordKind.ENTRY, u64(index) + running + leaf_data)


def decode_entry(body: bytes) -> EntryRecord:
    """
    Read the body of an entry's record.

    Raises:
        DecodeError: it is too short.
    """
    if len(body) < _ENTRY_HEAD_BYTES:
        message = f"an entry's record has {_ENTRY_HEAD_BYTES} bytes before its leaf, got {len(body)}"
        raise DecodeError(message)
    return EntryRecord(
        index=int.from_bytes(body[:8], "big"), running=body[8:_ENTRY_HEAD_BYTES], leaf_data=body[_ENTRY_HEAD_BYTES:]
    )


def read_records(file: BinaryIO) -> Iterator[tuple[RecordKind, bytes]]:
    """
    Read the records of an export one after the other, holding one at a time.

    Raises:
        DecodeError: it is no export of this version, is cut short, or a record cannot be one.
    """
    head = file.read(len(HEAD))
    if head[: len(MAGIC)] != MAGIC:
        message = "this is no export of an audit log: make one with  qflare audit export"
        raise DecodeError(message)
    if head != HEAD:
        message = f"the export is of version {head[-1:].hex() or 'none'}, this code reads version {VERSION:02x}"
        raise DecodeError(message)
    while record := file.read(_RECORD_HEAD_BYTES):
        size = int.from_bytes(record[1:], "big")
        if len(record) != _RECORD_HEAD_BYTES:
            message = "the export is cut short in the middle of a record"
            raise DecodeError(message)
        if record[0] not in _KINDS or size > BODY_BYTES_MAX:
            message = f"a record of kind {record[0]} and {size} bytes cannot be one: the export is damaged"
            raise DecodeError(message)
        body = file.read(size)
        if len(body) != size:
            message = "the export is cut short in the middle of a record"
            raise DecodeError(message)
        yield RecordKind(record[0]), body
