"""The entries in archives, as rows of the log are shown: what is about devices opens with the log's own keys alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, ConfigError, DecodeError, EvidenceError
from qflare.model.event import (
    EVENT_ENTRY,
    FIELDS_ENTRY,
    SESSION_ENTRY,
    AuditEntry,
    EventSeverity,
    SecurityEventType,
)
from qflare.monitor.headings import Headings
from qflare.monitor.proof import check_entry, unix_ms
from qflare.protocol import log_export
from qflare.protocol.entry import decode_fields_leaf, is_sealed, open_entry
from qflare.protocol.labels import MAGIC_LEAF
from qflare.protocol.leaf import decode_event_leaf
from qflare.protocol.log import hash_leaf
from qflare.protocol.log_export import RecordKind
from qflare.service.archive_file import open_archive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from qflare.model.event import SealedKey
    from qflare.model.ids import TenantId
    from qflare.protocol.entry import EntryVault
    from qflare.protocol.log_export import EntryRecord, RowRecord
    from qflare.secret import SecretBytes

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ArchivedEntry:
    """An entry of an archive; its row fits its leaf, of which this says nothing about the signed log."""

    entry: AuditEntry
    is_sealed: bool
    """Whether it is about a device, and was not opened: then it has neither device nor data."""


def read_archived(
    paths: Sequence[Path], passphrase: SecretBytes, tenant_id: TenantId, *, first: int, limit: int
) -> list[ArchivedEntry]:
    """
    Return a tenant's entries in archives, from index *first* on, *limit* at most; blocking.

    Every archive is read to its end before anything is returned: one that was cut or altered gives nothing.

    Raises:
        ConfigError: a file cannot be read.
        DecodeError: it is no archive.
        EvidenceError: it does not open, or a row in it does not fit its leaf.
    """
    found: list[ArchivedEntry] = []
    headings = Headings()
    for path in paths:
        try:
            for record, row in _rows(path, passphrase):
                entry = _entry_of(record, row, headings)
                if entry.tenant_id == tenant_id and entry.index >= first and len(found) < limit:
                    found.append(_shown(entry))
        except OSError as failure:
            raise ConfigError(f"cannot read {path}: {failure.strerror}") from None
        except AuthenticationError:
            raise EvidenceError(f"the archive {path} does not open: another passphrase, or it was altered") from None
    return found


def open_archived(
    entries: Sequence[ArchivedEntry], keys: Mapping[int, SealedKey], vault: EntryVault
) -> list[ArchivedEntry]:
    """
    Open what is sealed with the keys that the database still has, by index; of others the subject was erased.

    Raises:
        EvidenceError: a key does not open its entry.
    """
    opened: list[ArchivedEntry] = []
    for each in entries:
        if not each.is_sealed:
            opened.append(each)
            continue
        entry = replace(each.entry, sealed_key=keys.get(each.entry.index))
        check_entry(entry, vault)
        opened.append(ArchivedEntry(open_entry(entry, vault), is_sealed=False))
    return opened


def _rows(path: Path, passphrase: SecretBytes) -> Iterator[tuple[EntryRecord, RowRecord | None]]:
    """Give each entry with what its row held; that of an event's leaf is all in the leaf."""
    with path.open("rb") as file:
        kept: EntryRecord | None = None
        for kind, body in log_export.read_records(open_archive(file, passphrase)):
            if kind is RecordKind.ENTRY:
                if kept is not None:
                    yield kept, None
                kept = log_export.decode_entry(body)
            elif kind is RecordKind.ROW and kept is not None:
                yield kept, log_export.decode_row(body)
                kept = None
        if kept is not None:
            yield kept, None


def _entry_of(record: EntryRecord, row: RowRecord | None, headings: Headings) -> AuditEntry:
    leaf_data = record.leaf_data
    kind = leaf_data[len(MAGIC_LEAF)] if len(leaf_data) > len(MAGIC_LEAF) else 0
    try:
        if kind == EVENT_ENTRY and row is None:
            leaf = decode_event_leaf(leaf_data)
            tenant_id, event_type, severity = leaf.tenant_id, leaf.event_type, leaf.severity
            device_id, data, recorded_at = leaf.device_id, leaf.data, _time(leaf.occurred_at_ms * 1000)
        elif kind in {SESSION_ENTRY, FIELDS_ENTRY} and row is not None and row.index == record.index:
            event_type, severity = SecurityEventType.KEY_EXCHANGE, EventSeverity.INFO
            if kind == FIELDS_ENTRY:
                fields = decode_fields_leaf(leaf_data)
                event_type, severity = fields.event_type, fields.severity
            tenant_id, device_id, data, recorded_at = row.tenant_id, None, row.stored, _time(row.recorded_at_us)
        else:
            raise EvidenceError(f"what the row of entry {record.index} held is missing", index=record.index)
    except (DecodeError, OverflowError):
        raise EvidenceError(f"entry {record.index} is none that this code can read", index=record.index) from None
    entry = AuditEntry(
        index=record.index,
        entry_type=kind,
        tenant_id=tenant_id,
        leaf_hash=hash_leaf(leaf_data),
        leaf_data=leaf_data,
        event_type=event_type,
        severity=severity,
        device_id=device_id,
        data=data,
        recorded_at=recorded_at,
    )
    check_entry(entry)
    problem = headings.problem_of(
        record.index, kind, event_type, tenant_id=tenant_id, recorded_at_ms=unix_ms(recorded_at)
    )
    if problem is not None:
        raise EvidenceError(f"what the row of entry {record.index} held was altered: {problem}", index=record.index)
    return entry


def _shown(entry: AuditEntry) -> ArchivedEntry:
    if entry.entry_type == FIELDS_ENTRY and is_sealed(entry.data):
        return ArchivedEntry(entry, is_sealed=True)
    return ArchivedEntry(open_entry(entry, None), is_sealed=False)


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
