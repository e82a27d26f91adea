"""
Events made ready for the log, one or a batch: canonical data, commitments, leaf, and what the row stores.

First each is checked and encoded, where its caller is told of a mistake; then many of them, of many callers, are made.
All hashing of these is one call of the C core.  What a leaf must be says `protocol/entry.py`, in Python, and checks it
so when it is read back (docs/audit.md, entry type 3).
"""

from __future__ import annotations

from functools import lru_cache
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Final, NamedTuple

from qflare.errors import LengthError, UsageError
from qflare.model.event import FIELDS_ENTRY, EventSeverity, NewEvent, SealedKey, SecurityEventType
from qflare.model.ids import NAME_BYTES_MAX
from qflare.primitives.entries import SALT_BYTES, entry_leaves
from qflare.primitives.random import random_secret
from qflare.protocol.entry import DATA_FIELDS_BYTES_MAX, PLAIN, SEALED, EntryVault
from qflare.protocol.labels import MAGIC_LEAF
from qflare.protocol.leaf import JSON_INTEGER_MAX, JsonValue, encode_json, require_json
from qflare.protocol.wire import TENANT_BYTES, u64
from qflare.secret import SecretBytes, zeroize

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qflare.model.ids import DeviceId, TenantId

_HEAD: Final = MAGIC_LEAF + bytes((FIELDS_ENTRY,))
_PLAIN: Final = bytes((PLAIN,))
_SEALED: Final = bytes((SEALED,))
_NO_DEVICE: Final = b"\x00"
_BATCH_MAX: Final = 4096
"""Most events whose leaves one call makes: what is held twice meanwhile stays small."""
_WORDS: Final = {True: b"true", False: b"false", None: b"null"}
_SHAPES_MAX: Final = 256
_SHAPE_CHARACTERS_MAX: Final = 512
_shapes: Final[dict[tuple[str, ...], tuple[tuple[str, bytes, bytes], ...]]] = {}
"""Names that were put in order and encoded: events of one kind have the same ones again and again."""
_tuple: Final = tuple.__new__
"""Makes a named tuple of its fields in a third of the time that its constructor takes."""


class Draft(NamedTuple):
    """What one event says."""

    event_type: SecurityEventType
    severity: EventSeverity
    data: Mapping[str, JsonValue]
    device_id: DeviceId | None = None


def new_event(
    event_type: SecurityEventType,
    severity: EventSeverity,
    data: Mapping[str, JsonValue],
    *,
    tenant_id: TenantId,
    occurred_at_ms: int,
    device_id: DeviceId | None = None,
    vault: EntryVault | None = None,
    salt: bytes | None = None,
) -> NewEvent:
    """
    Make one event; arguments and errors as for `new_events`.

    Args:
        event_type: What happened.
        severity: How much an operator should care.
        data: Its fields; each top-level key is committed to by itself.
        tenant_id: 16 bytes.
        occurred_at_ms: Milliseconds since the Unix epoch.
        device_id: The device it is about, 1 to 255 bytes of UTF-8, or None.
        vault: Seals what tells of a device; not needed for an event about none.
        salt: 32 random bytes; drawn if not given.
    """
    draft = Draft(event_type, severity, data, device_id)
    (event,) = new_events([draft], tenant_id=tenant_id, occurred_at_ms=occurred_at_ms, vault=vault, salts=salt)
    return event


def new_events(
    drafts: Sequence[Draft],
    *,
    tenant_id: TenantId,
    occurred_at_ms: int,
    vault: EntryVault | None = None,
    salts: bytes | None = None,
) -> list[NewEvent]:
    """
    Make events of one tenant and time that are ready for the log; all of them, or an error and none.

    Args:
        drafts: What they say.
        tenant_id: 16 bytes.
        occurred_at_ms: Milliseconds since the Unix epoch.
        vault: Seals what tells of a device; not needed where no event is about one.
        salts: 32 random bytes for each; drawn if not given.

    Raises:
        EntropyError: the random source failed.
        LengthError: a field has the wrong size.
        UsageError: data cannot be encoded, a field is out of range, or a device's event has no *vault*.
    """
    return make_events(prepare_events(drafts, occurred_at_ms=occurred_at_ms), tenant_id, vault, salts=salts)


class PreparedEvent(NamedTuple):
    """What one event says, checked and encoded."""

    event_type: SecurityEventType
    severity: EventSeverity
    device_id: DeviceId | None
    occurred_at_ms: int
    name: bytes
    """Of its device; empty if it is about none."""
    data: bytes
    """Canonical JSON."""
    fields: list[bytes]
    """Name and canonical JSON of each field in order."""


def prepare_events(drafts: Iterable[Draft], *, occurred_at_ms: int) -> list[PreparedEvent]:
    """
    Check and encode events; all of them, or an error and none.

    Args:
        drafts: What they say.
        occurred_at_ms: Milliseconds since the Unix epoch.

    Raises:
        LengthError: a device's name has the wrong size.
        UsageError: data cannot be encoded, or a field is out of range.
    """
    if not 0 <= occurred_at_ms < 2**63:
        message = f"occurred_at_ms must be 0 to 2^63 - 1, got {occurred_at_ms}"
        raise UsageError(message)
    prepared: list[PreparedEvent] = []
    for event_type, severity, data, device_id in drafts:
        name = b"" if device_id is None else device_id.encode()
        if device_id is not None and not 1 <= len(name) <= NAME_BYTES_MAX:
            label, expected = "device_id", f"1 to {NAME_BYTES_MAX}"
            raise LengthError(label, expected=expected, actual=len(name))
        whole, fields = _encode(data)
        prepared.append(_tuple(PreparedEvent, (event_type, severity, device_id, occurred_at_ms, name, whole, fields)))
    return prepared


def make_events(
    prepared: Sequence[PreparedEvent], tenant_id: TenantId, vault: EntryVault | None, *, salts: bytes | None = None
) -> list[NewEvent]:
    """
    Make the leaves of events of one tenant, and what their rows store; all of them, or an error and none.

    Args:
        prepared: What they say; each in a time of its own.
        tenant_id: 16 bytes.
        vault: Seals what tells of a device; not needed where no event is about one.
        salts: 32 random bytes for each; drawn if not given.

    Raises:
        EntropyError: the random source failed.
        LengthError: *tenant_id* or *salts* has the wrong size.
        UsageError: a device's event has no *vault*.
    """
    if len(tenant_id) != TENANT_BYTES:
        name = "tenant_id"
        raise LengthError(name, expected=TENANT_BYTES, actual=len(tenant_id))
    if salts is not None and len(salts) != SALT_BYTES * len(prepared):
        name = "salt"
        raise LengthError(name, expected=SALT_BYTES * len(prepared), actual=len(salts))
    if vault is None and any(event.name for event in prepared):
        message = "an event about a device needs the vault that seals it"
        raise UsageError(message)
    events: list[NewEvent] = []
    for at in range(0, len(prepared), _BATCH_MAX):
        some = prepared[at : at + _BATCH_MAX]
        given = None if salts is None else bytearray(salts[at * SALT_BYTES : (at + len(some)) * SALT_BYTES])
        with random_secret(SALT_BYTES * len(some)) if given is None else SecretBytes(given) as drawn:
            events += _make(some, drawn, tenant_id, vault)
    return events


def _make(
    prepared: Sequence[PreparedEvent], salts: SecretBytes, tenant_id: TenantId, vault: EntryVault | None
) -> list[NewEvent]:
    rows, keys = _seal(prepared, salts, tenant_id, vault)
    parts: list[bytes] = []
    field_counts: list[int] = []
    for (event_type, severity, _, occurred_at_ms, name, _, fields), row in zip(prepared, rows, strict=True):
        parts += (_head(occurred_at_ms, event_type, severity), row, name)
        parts += fields
        field_counts.append(len(fields) // 2)
    leaves, hashes = entry_leaves(tenant_id, salts, parts, field_counts)
    return [
        _tuple(NewEvent, (event_type, severity, device_id, data, leaf, leaf_hash, occurred_at_ms, row, key))
        for (event_type, severity, device_id, occurred_at_ms, _, data, _), leaf, leaf_hash, row, key in zip(
            prepared, leaves, hashes, rows, keys, strict=True
        )
    ]


def _seal(
    prepared: Sequence[PreparedEvent], salts: SecretBytes, tenant_id: TenantId, vault: EntryVault | None
) -> tuple[list[bytes], list[SealedKey | None]]:
    """Return what the row of each event stores, and the key of those about a device."""
    rows: list[bytes] = []
    keys: list[SealedKey | None] = [None] * len(prepared)
    devices: list[DeviceId] = []
    openings: list[bytearray] = []
    places: list[int] = []
    """Of those about a device."""
    at = 0
    try:
        with salts.view() as view:
            for _, _, device_id, _, name, data, _ in prepared:
                end = at + SALT_BYTES
                if device_id is None:
                    # Of these the row itself has the salt.
                    rows.append(b"".join((_PLAIN, view[at:end], _NO_DEVICE, data)))
                else:
                    places.append(len(rows))
                    rows.append(b"")
                    devices.append(device_id)
                    with view[at:end] as salt:
                        openings.append(bytearray().join((salt, bytes((len(name),)), name, data)))
                at = end
        sealed = [] if vault is None or not openings else vault.seal_many(tenant_id, devices, openings)
    finally:
        for opening in openings:
            zeroize(opening)
    for place, (box, key) in zip(places, sealed, strict=True):
        rows[place], keys[place] = _SEALED + box, key
    return rows, keys


@lru_cache(maxsize=256)
def _head(occurred_at_ms: int, event_type: SecurityEventType, severity: EventSeverity) -> bytes:
    """Return what leaf data begin with; events of one call have the same time."""
    texts = b"".join(bytes((len(text),)) + text for text in (event_type.encode(), severity.encode()))
    return _HEAD + u64(occurred_at_ms) + texts


def _shape(data: Mapping[str, JsonValue]) -> tuple[tuple[str, bytes, bytes], ...]:
    """Return the names of *data* in order: each as it is, in its commitment, and in JSON with what is around it."""
    try:
        names = sorted(data)
    except TypeError:
        # Names of several types: the check says which is none.
        require_json(data)
        raise
    is_text = all(type(name) is str for name in names)
    if not is_text:
        require_json(data)
    shape = tuple(
        (name, name.encode(), f"{',' if place else '{'}{encode_basestring(name)}:".encode())
        for place, name in enumerate(names)
    )
    if is_text and type(data) is dict and sum(map(len, names)) <= _SHAPE_CHARACTERS_MAX:
        if len(_shapes) >= _SHAPES_MAX:
            _shapes.clear()
        _shapes[tuple(data)] = shape
    return shape


def _encode(data: Mapping[str, JsonValue]) -> tuple[bytes, list[bytes]]:
    """
    Encode the data of an event as `encode_event_data` does; return that, and name and value of each field in order.

    The encoding of a map is that of its fields in order, so that each value is encoded once; what most values are is
    written here, without a call for each.
    """
    fields: list[bytes] = []
    parts: list[bytes] = []
    try:
        known = _shapes.get(tuple(data)) if type(data) is dict else None
        for name, raw_name, json_name in known or _shape(data):
            value = data[name]
            if type(value) is str:
                encoded = encode_basestring(value).encode()
            elif type(value) is int and -JSON_INTEGER_MAX <= value <= JSON_INTEGER_MAX:
                encoded = b"%d" % value
            elif value is None or type(value) is bool:
                encoded = _WORDS[value]
            else:
                require_json(value, depth=1)
                encoded = encode_json(value)
            fields += (raw_name, encoded)
            parts += (json_name, encoded)
        parts.append(b"}" if parts else b"{}")
        whole: bytes | None = b"".join(parts)
    except UnicodeEncodeError:
        whole = None
    if whole is None or len(whole) > DATA_FIELDS_BYTES_MAX:
        message = (
            f"event data must be valid text of at most {DATA_FIELDS_BYTES_MAX} bytes of JSON; store a digest instead"
        )
        raise UsageError(message)
    return whole, fields
