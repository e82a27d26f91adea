"""
Entries of type 3: an event whose fields are salted commitments, each to be shown or kept by itself (docs/audit.md).

The leaf holds time, type and severity, the digest of what the row stores, and one hash over the commitments to tenant,
device and every field of the data.  What opens them rests in the row: as it is for an event about no device, sealed
under a key of its own for one about a device, so that destroying the key erases the entry and leaves the tree.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from qflare.errors import AuthenticationError, DecodeError, EvidenceError, LengthError, UsageError
from qflare.model.event import FIELDS_ENTRY, AuditEntry, EventSeverity, SealedKey, SecurityEventType
from qflare.model.ids import DeviceId
from qflare.protocol.labels import MAGIC_LEAF
from qflare.protocol.leaf import DATA_BYTES_MAX, encode_event_data, encode_json
from qflare.protocol.log import HASH_BYTES
from qflare.protocol.wire import u32, u64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import TenantId

DATA_FIELDS_BYTES_MAX: Final = DATA_BYTES_MAX - 512
"""Longest canonical JSON of an event of type 3: what opens it rests in the same column, which takes 64 KiB."""
SALT_BYTES: Final = 32
"""Of an event; the salt of each field is derived from it."""
PLAIN, SEALED = 0, 1
"""First byte of what a row stores."""

TENANT_FIELD, DEVICE_FIELD, DATA_FIELD = 0, 1, 2
"""What a commitment is to; only fields of the data have a name."""

_HEAD: Final = MAGIC_LEAF + bytes((FIELDS_ENTRY,))
_SALT_LABEL: Final = b"QFX1 SALT"
_FIELD_LABEL: Final = b"QFX1 FIELD"
_FIELDS_LABEL: Final = b"QFX1 FIELDS"
_ROW_LABEL: Final = b"QFX1 ROW"


class EntryVault(Protocol):
    """Seals what opens an entry about a device, each entry under a key of its own."""

    def seal_many(
        self, tenant_id: TenantId, device_ids: Sequence[DeviceId], openings: Sequence[bytes | bytearray]
    ) -> list[tuple[bytes, SealedKey]]:
        """Return each opening sealed, and its key, sealed, under the name of its subject; one device each."""

    def open(self, tenant_id: TenantId, sealed: bytes, key: SealedKey) -> bytes:
        """Return what was sealed; `AuthenticationError` if it, its key or its tenant was altered."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an entry, as its commitment is opened."""

    kind: int
    """`TENANT_FIELD`, `DEVICE_FIELD` or `DATA_FIELD`."""
    name: str
    """Key of the data; empty for tenant and device."""
    value: bytes
    """16 bytes of tenant_id, the device_id (empty: about none), or canonical JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldsLeaf:
    """An entry of type 3 as its leaf data state it."""

    occurred_at_ms: int
    event_type: SecurityEventType
    severity: EventSeverity
    row_digest: bytes
    fields_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What opens every commitment of an entry."""

    salt: bytes
    device_id: DeviceId | None
    data: bytes
    """Canonical JSON."""

    def fields(self, tenant_id: TenantId) -> tuple[Field, ...]:
        """
        Return the entry's fields in the order of their commitments.

        Raises:
            DecodeError: the data are no canonical JSON.
        """
        return _fields(tenant_id, self.device_id, self.data)


def field_salt(salt: bytes, field: Field) -> bytes:
    """Return the 32-byte salt of one field; whoever knows it learns no other field's."""
    return hmac.digest(salt, _SALT_LABEL + bytes((field.kind,)) + field.name.encode(), "sha256")


def commit_field(field: Field, salt: bytes) -> bytes:
    """Return the commitment to *field* under its own *salt* from `field_salt`: 32 bytes."""
    name = field.name.encode()
    parts = (_FIELD_LABEL, salt, bytes((field.kind,)), u32(len(name)), name, field.value)
    return hashlib.sha256(b"".join(parts)).digest()


def hash_fields(commitments: Sequence[bytes]) -> bytes:
    """Return the one hash over all commitments in their order, which stands in the leaf."""
    return hashlib.sha256(_FIELDS_LABEL + b"".join(commitments)).digest()


def digest_row(tenant_id: TenantId, stored: bytes) -> bytes:
    """
    Return the digest that binds a row's tenant and what it stores to the leaf.

    With it whoever reads the rows finds any change in them without a key, also in what is sealed or was erased.
    """
    return hashlib.sha256(_ROW_LABEL + tenant_id + stored).digest()


def fields_leaf(
    *,
    event_type: SecurityEventType,
    severity: EventSeverity,
    occurred_at_ms: int,
    row_digest: bytes,
    fields_hash: bytes,
) -> bytes:
    """
    Return the leaf data of an entry of type 3 (docs/audit.md).

    Raises:
        UsageError: the time is out of range.
        LengthError: a hash has the wrong size.
    """
    if not 0 <= occurred_at_ms < 2**63:
        message = f"occurred_at_ms must be 0 to 2^63 - 1, got {occurred_at_ms}"
        raise UsageError(message)
    for label, value in (("row_digest", row_digest), ("fields_hash", fields_hash)):
        if len(value) != HASH_BYTES:
            raise LengthError(label, expected=HASH_BYTES, actual=len(value))
    texts = [part for text in (event_type.encode(), severity.encode()) for part in (bytes((len(text),)), text)]
    return b"".join((_HEAD, u64(occurred_at_ms), *texts, row_digest, fields_hash))


def decode_fields_leaf(leaf_data: bytes) -> FieldsLeaf:
    """
    Read the leaf data of an entry of type 3 back.

    Raises:
        DecodeError: it is not exactly one such leaf.
    """
    at = len(_HEAD) + 8
    if not leaf_data.startswith(_HEAD):
        raise _bad_leaf()
    texts: list[bytes] = []
    for _ in range(2):
        size = int.from_bytes(leaf_data[at : at + 1], "big")
        texts.append(leaf_data[at + 1 : at + 1 + size])
        at += 1 + size
    occurred_at_ms = int.from_bytes(leaf_data[len(_HEAD) : len(_HEAD) + 8], "big")
    if len(leaf_data) != at + 2 * HASH_BYTES or occurred_at_ms >= 2**63:
        raise _bad_leaf()
    try:
        return FieldsLeaf(
            occurred_at_ms=occurred_at_ms,
            event_type=SecurityEventType(texts[0].decode()),
            severity=EventSeverity(texts[1].decode()),
            row_digest=leaf_data[at : at + HASH_BYTES],
            fields_hash=leaf_data[at + HASH_BYTES :],
        )
    except ValueError:  # no UTF-8, or no such type or severity
        pass
    raise _bad_leaf()


def encode_opening(opening: Opening) -> bytes:
    """Return what opens an entry as the row keeps it, sealed or not."""
    name = b"" if opening.device_id is None else opening.device_id.encode()
    return b"".join((opening.salt, bytes((len(name),)), name, opening.data))


def decode_opening(encoded: bytes) -> Opening:
    """
    Read what `encode_opening` wrote.

    Raises:
        DecodeError: it is cut short, or the device's name is no UTF-8.
    """
    if len(encoded) <= SALT_BYTES or len(encoded) < SALT_BYTES + 1 + encoded[SALT_BYTES]:
        raise _bad_opening()
    at = SALT_BYTES + 1 + encoded[SALT_BYTES]
    try:
        name = encoded[SALT_BYTES + 1 : at].decode()
    except UnicodeDecodeError:
        raise _bad_opening() from None
    return Opening(salt=encoded[:SALT_BYTES], device_id=DeviceId(name) if name else None, data=encoded[at:])


def is_sealed(stored: bytes) -> bool:
    """Return whether what a row of type 3 stores opens with a key alone."""
    return stored[:1] == bytes((SEALED,))


def is_erased(entry: AuditEntry) -> bool:
    """Return whether an entry is sealed and the key is gone that would open it."""
    stored = entry.data if entry.stored is None else entry.stored
    return entry.entry_type == FIELDS_ENTRY and is_sealed(stored) and entry.sealed_key is None


def open_stored(
    tenant_id: TenantId, stored: bytes, *, key: SealedKey | None = None, vault: EntryVault | None = None
) -> Opening | None:
    """
    Open what a row of type 3 stores; None if it is sealed and key or vault are not at hand.

    Raises:
        AuthenticationError: the key does not open it.
        DecodeError: it is nothing that such a row stores.
    """
    if stored[:1] == bytes((PLAIN,)):
        return decode_opening(stored[1:])
    if not is_sealed(stored):
        raise _bad_opening()
    if key is None or vault is None:
        return None
    return decode_opening(vault.open(tenant_id, stored[1:], key))


def open_entry(entry: AuditEntry, vault: EntryVault | None) -> AuditEntry:
    """
    Return *entry* with its device and data in the clear; as it is where it is of another type or stays sealed.

    Raises:
        EvidenceError: what its row stores, or its key, was altered.
    """
    if entry.entry_type != FIELDS_ENTRY or entry.stored is not None:
        return entry
    if is_erased(entry):
        return replace(entry, data=b"{}", stored=entry.data, is_erased=True)
    try:
        opening = open_stored(entry.tenant_id, entry.data, key=entry.sealed_key, vault=vault)
    except (AuthenticationError, DecodeError):
        message = f"entry {entry.index} was altered: what it stores does not open"
        raise EvidenceError(message, index=entry.index) from None
    if opening is None:
        return entry
    return replace(entry, device_id=opening.device_id, data=opening.data, stored=entry.data)


def check_opening(leaf: FieldsLeaf, tenant_id: TenantId, opening: Opening) -> None:
    """
    Check that *opening* opens the commitments of *leaf*, all of them.

    Raises:
        AuthenticationError: it opens others.
        DecodeError: its data are no canonical JSON.
    """
    fields = opening.fields(tenant_id)
    if hash_fields([commit_field(field, field_salt(opening.salt, field)) for field in fields]) != leaf.fields_hash:
        raise AuthenticationError


def _head_fields(tenant_id: TenantId, device_id: DeviceId | None) -> tuple[Field, ...]:
    # An event about no device commits to an empty name: the number of commitments tells nothing of it.
    name = b"" if device_id is None else device_id.encode()
    return (Field(TENANT_FIELD, "", bytes(tenant_id)), Field(DEVICE_FIELD, "", name))


def _fields(tenant_id: TenantId, device_id: DeviceId | None, data: bytes) -> tuple[Field, ...]:
    try:
        decoded: object = json.loads(data) if len(data) <= DATA_BYTES_MAX else None
        if not isinstance(decoded, dict) or encode_event_data(decoded) != data:
            raise _bad_opening()
        names: list[str] = sorted(decoded)
        return _head_fields(tenant_id, device_id) + tuple(
            Field(DATA_FIELD, name, encode_json(decoded[name])) for name in names
        )
    except (ValueError, RecursionError):  # no JSON, or none that is ever written
        pass
    raise _bad_opening()


def _bad_leaf() -> DecodeError:
    message = "the leaf data is not that of an event with committed fields (docs/audit.md)"
    return DecodeError(message)


def _bad_opening() -> DecodeError:
    message = "what the row stores does not open an event (docs/audit.md)"
    return DecodeError(message)
