"""
Leaves: the canonical bytes of the log's entries (docs/audit.md), of sessions (H9) and of events of type 2.

All begin with a magic and the entry type, so that no event can be taken for a session.  A session's leaf says who
took part only to those who hold its evidence.  An event's leaf of type 2, as it was written before there was type 3
(protocol/entry.py), begins with a random salt, so that a leaf hash in somebody else's path says nothing about it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import DecodeError, LengthError, UsageError
from qflare.model.event import EVENT_ENTRY, SESSION_ENTRY, EventSeverity, SecurityEventType
from qflare.model.ids import NAME_BYTES_MAX, DeviceId, TenantId
from qflare.primitives.hash import transcript
from qflare.primitives.random import random_bytes
from qflare.protocol.labels import HASH_WHO, MAGIC_LEAF
from qflare.protocol.wire import (
    FORM_HELLO,
    FORM_OFFER,
    HASH_BYTES,
    SERVER_ID_BYTES,
    SID_BYTES,
    TENANT_BYTES,
    u32,
    u64,
)

if TYPE_CHECKING:
    from qflare.model.ids import DeviceRef, SessionId

WHO_BYTES: Final = 32
WHO_KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
DATA_BYTES_MAX: Final = 1 << 16
"""Longest canonical JSON of one event."""

JsonValue = None | bool | int | str | list["JsonValue"] | dict[str, "JsonValue"]
"""What an event's data may hold; no floats, whose text is not canonical across languages."""

_SESSION: Final = struct.Struct(f">{len(MAGIC_LEAF)}sBBH{SERVER_ID_BYTES}s{SID_BYTES}sQ{HASH_BYTES}s{WHO_BYTES}s")
_JSON: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
"""One for all: `json.dumps` makes an encoder for each call, which costs more than most values do."""
JSON_INTEGER_MAX: Final = 2**53 - 1
"""Largest integer that every reader of JSON has exactly."""
_DEPTH_MAX: Final = 8


def who_of(*, tenant_id: TenantId, ref: DeviceRef, key_version: int, who_key: bytes) -> bytes:
    """
    Return who took part in a session, as its leaf says it: 32 bytes.

    Args:
        tenant_id: 16 bytes.
        ref: The device, 32 bytes.
        key_version: Version of the keys it used.
        who_key: ``Expand(ck2, "who", th3, 32)``: blinds the name for all who do not hold the evidence.

    Source: docs/protocol.md, H9.
    """
    return transcript(HASH_WHO, tenant_id, ref, u32(key_version), who_key)[:WHO_BYTES]


def session_leaf(
    *, form: int, suite: int, server_id: bytes, sid: SessionId, start: int, th3_hash: bytes, who: bytes
) -> bytes:
    """
    Return the leaf data of a session, 165 bytes; only H8 writes such an entry.

    Args:
        form: 1 hello, 2 offer.
        suite: 0x0001.
        server_id: 32 bytes.
        sid: 16 bytes.
        start: First bucket of the session.
        th3_hash: H(th3), 64 bytes.
        who: From `who_of`, 32 bytes.

    Raises:
        LengthError: a field has the wrong size.
        UsageError: *form* is neither 1 nor 2.

    Source: docs/protocol.md, H9.
    """
    if (
        len(server_id) != SERVER_ID_BYTES
        or len(sid) != SID_BYTES
        or len(th3_hash) != HASH_BYTES
        or len(who) != WHO_BYTES
    ):
        raise _wrong_size(server_id=server_id, sid=sid, th3_hash=th3_hash, who=who)
    if form not in (FORM_HELLO, FORM_OFFER):
        message = f"form is 1 (hello) or 2 (offer), got {form}"
        raise UsageError(message)
    return _SESSION.pack(MAGIC_LEAF, SESSION_ENTRY, form, suite, server_id, sid, start, th3_hash, who)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLeaf:
    """An event as its leaf data states it."""

    salt: bytes
    tenant_id: TenantId
    event_type: SecurityEventType
    severity: EventSeverity
    device_id: DeviceId | None
    occurred_at_ms: int
    data: bytes


def event_leaf(
    *,
    tenant_id: TenantId,
    event_type: SecurityEventType,
    severity: EventSeverity,
    device_id: DeviceId | None,
    occurred_at_ms: int,
    data: bytes,
    salt: bytes | None = None,
) -> bytes:
    """
    Return the leaf data of an event (docs/audit.md).

    Args:
        tenant_id: 16 bytes; what keeps an entry from being moved to another tenant.
        event_type: What happened.
        severity: How much an operator should care.
        device_id: The device it is about, 1 to 255 bytes of UTF-8, or None.
        occurred_at_ms: Milliseconds since the Unix epoch.
        data: Canonical JSON from `encode_event_data`, at most 64 KiB.
        salt: 16 random bytes; drawn if not given.

    Raises:
        LengthError: a field has the wrong size.
        UsageError: the time is out of range.
    """
    name = b"" if device_id is None else device_id.encode()
    if device_id is not None and not 1 <= len(name) <= NAME_BYTES_MAX:
        label, expected = "device_id", f"1 to {NAME_BYTES_MAX}"
        raise LengthError(label, expected=expected, actual=len(name))
    drawn = random_bytes(SALT_BYTES) if salt is None else salt
    for label, value, size in (("tenant_id", tenant_id, TENANT_BYTES), ("salt", drawn, SALT_BYTES)):
        if len(value) != size:
            raise LengthError(label, expected=size, actual=len(value))
    if len(data) > DATA_BYTES_MAX:
        label, expected = "event data", f"at most {DATA_BYTES_MAX}"
        raise LengthError(label, expected=expected, actual=len(data))
    if not 0 <= occurred_at_ms < 2**63:
        message = f"occurred_at_ms must be 0 to 2^63 - 1, got {occurred_at_ms}"
        raise UsageError(message)
    texts = [text for field in (event_type.encode(), severity.encode(), name) for text in (bytes((len(field),)), field)]
    head = (MAGIC_LEAF, bytes((EVENT_ENTRY,)), drawn, tenant_id, u64(occurred_at_ms))
    return b"".join((*head, *texts, u32(len(data)), data))


def decode_event_leaf(leaf_data: bytes) -> EventLeaf:
    """
    Read the leaf data of an event back; who verifies the log compares the fields with the stored columns.

    Raises:
        DecodeError: it is not exactly one event's leaf.
    """
    head = MAGIC_LEAF + bytes((EVENT_ENTRY,))
    at = len(head) + SALT_BYTES + TENANT_BYTES + 8
    if not leaf_data.startswith(head) or len(leaf_data) < at:
        raise _bad_leaf()
    texts: list[bytes] = []
    for _ in range(3):
        size = int.from_bytes(leaf_data[at : at + 1], "big")
        texts.append(leaf_data[at + 1 : at + 1 + size])
        at += 1 + size
    data = leaf_data[at + 4 :]
    if len(leaf_data) < at + 4 or int.from_bytes(leaf_data[at : at + 4], "big") != len(data):
        raise _bad_leaf()
    tenant_at = len(head) + SALT_BYTES
    time_at = tenant_at + TENANT_BYTES
    try:
        leaf = EventLeaf(
            salt=leaf_data[len(head) : tenant_at],
            tenant_id=TenantId(leaf_data[tenant_at:time_at]),
            event_type=SecurityEventType(texts[0].decode()),
            severity=EventSeverity(texts[1].decode()),
            device_id=DeviceId(texts[2].decode()) if texts[2] else None,
            occurred_at_ms=int.from_bytes(leaf_data[time_at : time_at + 8], "big"),
            data=data,
        )
    except ValueError:  # no UTF-8, or no such type or severity
        leaf = None
    if leaf is None or leaf.occurred_at_ms >= 2**63 or len(data) > DATA_BYTES_MAX:
        raise _bad_leaf()
    return leaf


def encode_event_data(data: Mapping[str, JsonValue]) -> bytes:
    """
    Return *data* as canonical JSON: UTF-8, keys sorted by code point, no spaces, integers within ±(2^53 - 1).

    Raises:
        UsageError: a value is of another type (a float, bytes, a secret), too deep, or the JSON is too long.
    """
    require_json(data)
    try:
        encoded = encode_json(data)
    except UnicodeEncodeError:
        encoded = None
    if encoded is None or len(encoded) > DATA_BYTES_MAX:
        message = f"event data must be valid text of at most {DATA_BYTES_MAX} bytes of JSON; store a digest instead"
        raise UsageError(message)
    return encoded


def encode_json(value: object) -> bytes:
    """Return a JSON value as `encode_event_data` writes it; the caller has checked that it is one."""
    return _JSON.encode(value).encode()


def require_json(value: object, *, depth: int = 0) -> None:
    """
    Check that *value*, *depth* levels inside an event's data, is JSON that may stand in a leaf.

    Raises:
        UsageError: it is of another type (a float, bytes, a secret), out of range, or nested too deep.
    """
    if depth > _DEPTH_MAX:
        message = f"event data may be nested {_DEPTH_MAX} deep at most"
        raise UsageError(message)
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                message = f"a key of event data must be str, got {type(key).__name__}"
                raise UsageError(message)
            require_json(item, depth=depth + 1)
    elif isinstance(value, list):
        for item in value:
            require_json(item, depth=depth + 1)
    elif isinstance(value, int):
        if not -JSON_INTEGER_MAX <= value <= JSON_INTEGER_MAX:
            message = "an integer of event data must be within ±(2^53 - 1); write larger ones as text"
            raise UsageError(message)
    elif value is not None and not isinstance(value, str):
        message = f"event data holds text, integers, booleans, lists and maps, not {type(value).__name__}"
        raise UsageError(message)


def _wrong_size(*, server_id: bytes, sid: bytes, th3_hash: bytes, who: bytes) -> LengthError:
    fields = (
        ("server_id", server_id, SERVER_ID_BYTES),
        ("sid", sid, SID_BYTES),
        ("th3_hash", th3_hash, HASH_BYTES),
        ("who", who, WHO_BYTES),
    )
    name, value, size = next(field for field in fields if len(field[1]) != field[2])
    return LengthError(name, expected=size, actual=len(value))


def _bad_leaf() -> DecodeError:
    message = "the leaf data is not that of an event (docs/audit.md)"
    return DecodeError(message)
