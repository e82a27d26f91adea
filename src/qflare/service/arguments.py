"""What callers pass, checked before any work: messages, ids, names, kinds and directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias, TypeVar

from qflare.errors import LengthError, QflareError, UsageError
from qflare.model.ids import ID_BYTES, CallId, DeviceId, SessionId, TenantId
from qflare.primitives.rows import as_view
from qflare.protocol.identity import encode_name
from qflare.protocol.record import KIND_CONTROL, KIND_DATA
from qflare.protocol.wire import DIRECTION_TO_DEVICE, DIRECTION_TO_SERVER

T = TypeVar("T")

Message: TypeAlias = bytes | bytearray | memoryview
"""Bytes of a message, in whatever buffer they lie."""


def as_bytes(message: Message, *, name: str = "message") -> bytes:
    """Return *message* as bytes, or raise `UsageError` if it is none."""
    given: object = message
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"{name} must be bytes, got {type(message).__name__}")
    return bytes(message)


def as_buffer(message: Message) -> Message:
    """Return *message* as it is, uncopied, or raise `UsageError` if it is no bytes."""
    given: object = message
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"message must be bytes, got {type(message).__name__}")
    return message


def as_plaintext(plaintext: Message) -> memoryview:
    """Return a message that is to be sealed as a view of its bytes, uncopied, or raise `UsageError` if it has none."""
    return as_view(plaintext, name="plaintext")


def as_bucket(bucket: int | None) -> int | None:
    """Return a bucket, or None for the present one; `UsageError` if it is neither."""
    if bucket is not None and type(bucket) is not int:
        raise UsageError(f"bucket must be a whole number, got {type(bucket).__name__}")
    return bucket


def as_sid(session_id: SessionId | bytes) -> SessionId:
    """Return a session id, 16 bytes; `UsageError` or `LengthError` if it is none."""
    given: object = session_id
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"session_id must be bytes, got {type(session_id).__name__}")
    if len(session_id) != ID_BYTES:
        raise LengthError("session_id", expected=ID_BYTES, actual=len(session_id))
    return SessionId(bytes(session_id))


def as_call_id(call_id: CallId | bytes | None) -> CallId | None:
    """Return a call id, 16 bytes, or None for none; `UsageError` or `LengthError` if it is neither."""
    given: object = call_id
    if call_id is None:
        return None
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"call_id must be bytes, got {type(call_id).__name__}: draw 16 random ones")
    if len(call_id) != ID_BYTES:
        raise LengthError("call_id", expected=ID_BYTES, actual=len(call_id))
    return CallId(bytes(call_id))


def as_identifier(identifier: bytes, *, name: str) -> bytes:
    """Return an id of 16 bytes; `UsageError` or `LengthError` if it is none."""
    given: object = identifier
    if not isinstance(given, bytes | bytearray | memoryview):
        raise UsageError(f"{name} must be bytes, got {type(identifier).__name__}")
    if len(identifier) != ID_BYTES:
        raise LengthError(name, expected=ID_BYTES, actual=len(identifier))
    return bytes(identifier)


def as_list(items: Iterable[T], *, name: str) -> list[T]:
    """Return what a call is given many of as a list, or raise `UsageError` if it is one thing, or none."""
    given: object = items
    if isinstance(given, str | bytes | bytearray | memoryview | Mapping) or not isinstance(given, Iterable):
        raise UsageError(f"{name} must be a list, got {type(given).__name__}: put a single one into a list")
    return list(items)


def as_rows(items: Iterable[T], *, name: str, columns: tuple[str, ...]) -> list[T]:
    """Return rows of so many *columns* as a list, or raise `UsageError` if one is no such row."""
    rows = as_list(items, name=name)
    for row in rows:
        given: object = row
        if not isinstance(given, tuple | list) or len(given) != len(columns):
            raise UsageError(f"each of {name} must be ({', '.join(columns)}), got {type(given).__name__}")
    return rows


def as_tenant(tenant: TenantId | bytes, *, name: str = "tenant") -> TenantId:
    """Return a tenant's id, 16 bytes; `UsageError` or `LengthError` if it is none."""
    return TenantId(as_identifier(tenant, name=name))


def require_kind(value: object, kind: type | tuple[type, ...], *, name: str, remedy: str) -> None:
    """Raise `UsageError` with *remedy* unless *value* is of *kind*."""
    if not isinstance(value, kind):
        raise UsageError(f"{name} cannot be of the kind {type(value).__name__}: {remedy}")


def require_text(text: object, *, name: str) -> None:
    """Raise `UsageError` unless *text* is text that UTF-8 can hold."""
    if not isinstance(text, str):
        raise UsageError(f"{name} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name} must be text that UTF-8 can hold: it has a half of a surrogate pair") from None


def require_whole(number: object, *, name: str, is_needed: bool = False) -> None:
    """Raise `UsageError` unless *number* is a whole number, or None where none is needed."""
    if type(number) is not int and (is_needed or number is not None):
        raise UsageError(f"{name} must be a whole number, got {type(number).__name__}")


def require_seconds(seconds: object, *, name: str) -> None:
    """Raise `UsageError` unless *seconds* is a number."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise UsageError(f"{name} must be a number of seconds, got {type(seconds).__name__}")


def as_kind(kind: int) -> int:
    """Return the kind of a record that a caller may seal, or raise `UsageError`."""
    if type(kind) is not int or kind not in {KIND_DATA, KIND_CONTROL}:
        raise UsageError(f"kind is 0 (data) or 1 (control), got {kind!r}; requests and replies have calls of their own")
    return kind


def as_direction(direction: int) -> int:
    """Return a direction, or raise `UsageError`."""
    if type(direction) is not int or direction not in {DIRECTION_TO_SERVER, DIRECTION_TO_DEVICE}:
        raise UsageError(f"direction is 1 (device to server) or 2 (back), got {direction!r}")
    return direction


def require_name(device_id: str) -> DeviceId:
    """Return a device's name, or raise `UsageError` if it can be none."""
    given: object = device_id
    if not isinstance(given, str):
        raise UsageError(f"device_id must be text, got {type(device_id).__name__}")
    encode_name(device_id)
    return DeviceId(device_id)


def raised(result: T | QflareError) -> T:
    """Return a batch's one result, or raise it."""
    if isinstance(result, QflareError):
        raise result
    return result
