"""
Disclosures: chosen fields of one log entry with the proof that they stand in the log; the others stay hidden.

A disclosure holds the entry's leaf, its place under a signed head, and for each of its fields either what opens the
commitment or the commitment alone (docs/audit.md, "Disclosures").  The log's key or the server's id checks it.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import AuthenticationError, DecodeError, OtherLogError, ServerIdentityError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DeviceId, TenantId
from qflare.protocol.entry import (
    DATA_FIELD,
    DEVICE_FIELD,
    SALT_BYTES,
    TENANT_FIELD,
    Field,
    commit_field,
    decode_fields_leaf,
    hash_fields,
)
from qflare.protocol.identity import decode_identity
from qflare.protocol.log import HASH_BYTES, SIZE_MAX, hash_leaf, verify_inclusion
from qflare.protocol.log_key import LogKey, open_note
from qflare.protocol.wire import TENANT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT: Final = "qflare-disclosure-1"
BYTES_MAX: Final = 2**22
"""Longest file that is read: above every entry's fields."""
_PATH_MAX: Final = 63
_KINDS: Final = {TENANT_FIELD: "tenant", DEVICE_FIELD: "device", DATA_FIELD: "data"}


@dataclass(frozen=True, slots=True)
class ShownField:
    """A field in the clear, with the salt that opens its commitment and no other."""

    field: Field
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DisclosedEntry:
    """What a disclosure proves; of what is None or missing it says nothing."""

    index: int
    size: int
    """Of the signed log in which the entry stands."""
    signed_at_s: int
    origin: str
    occurred_at_ms: int
    event_type: SecurityEventType
    severity: EventSeverity
    tenant_id: TenantId | None
    device_id: DeviceId | None
    is_about_no_device: bool
    """Whether it is shown that the event is about no device."""
    data: dict[str, bytes]
    """Fields that are shown: canonical JSON by name."""
    hidden: int
    """Fields that stay hidden."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosure:
    """Chosen fields of one entry, its place and a signed head; nothing in it is verified before `verify`."""

    index: int
    leaf_data: bytes
    fields: tuple[ShownField | bytes, ...]
    """Of each field in order what is shown, or its commitment."""
    path: tuple[bytes, ...]
    note: str
    """The signed head."""
    identity: bytes
    """``root vk ‖ CERT`` of the log's key, for who pinned the server's id."""

    def to_json(self) -> str:
        """Return it as the JSON of docs/audit.md."""
        return json.dumps(
            {
                "format": FORMAT,
                "index": self.index,
                "leaf_data": _encode(self.leaf_data),
                "fields": [_field_json(each) for each in self.fields],
                "path": [_encode(each) for each in self.path],
                "checkpoint": self.note,
                "identity": _encode(self.identity),
            },
            indent=1,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """
        Read one; nothing in it is verified.

        Raises:
            DecodeError: it is no disclosure.
        """
        try:
            found: object = json.loads(text) if len(text) <= BYTES_MAX else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            message = f"this is no disclosure of the form {FORMAT}, or longer than {BYTES_MAX} bytes"
            raise DecodeError(message)
        index, fields, path, note = (found.get(name) for name in ("index", "fields", "path", "checkpoint"))
        if type(index) is not int or not 0 <= index <= SIZE_MAX or not isinstance(note, str):
            raise _bad("index or checkpoint")
        if not isinstance(fields, list) or not isinstance(path, list) or len(path) > _PATH_MAX:
            raise _bad("list of fields or path")
        return cls(
            index=index,
            leaf_data=_decode(found.get("leaf_data"), "leaf_data"),
            fields=tuple(_field_of(each) for each in fields),
            path=tuple(_decode(each, "path", HASH_BYTES) for each in path),
            note=note,
            identity=_decode(found.get("identity"), "identity"),
        )

    def verify(self, *, server_id: bytes | None = None, key: LogKey | None = None) -> DisclosedEntry:
        """
        Check everything, and return what is proven.

        Args:
            server_id: The pinned one, 32 bytes, which vouches for the log's key in the disclosure.
            key: The log's pinned key instead.

        Raises:
            AuthenticationError: a field is not the one that was committed to, or the entry not in the signed log.
            DecodeError: leaf or signed head are none.
            OtherLogError: it is of another log than the pinned one.
        """
        keys: Sequence[LogKey] = (key,) if key is not None else (self._key_under(server_id),)
        checkpoint = open_note(self.note, keys)
        leaf = decode_fields_leaf(self.leaf_data)
        commitments = [each if isinstance(each, bytes) else commit_field(each.field, each.salt) for each in self.fields]
        if hash_fields(commitments) != leaf.fields_hash:
            raise AuthenticationError
        verify_inclusion(hash_leaf(self.leaf_data), self.index, checkpoint.size, self.path, checkpoint.root)
        # The hash over the commitments fixes their order: nothing is shown in the place of another one.
        opened = [each.field for each in self.fields if isinstance(each, ShownField)]
        shown = {(field.kind, field.name): field.value for field in opened}
        tenant, device = shown.get((TENANT_FIELD, "")), shown.get((DEVICE_FIELD, ""))
        return DisclosedEntry(
            index=self.index,
            size=checkpoint.size,
            signed_at_s=checkpoint.time_s,
            origin=keys[0].origin,
            occurred_at_ms=leaf.occurred_at_ms,
            event_type=leaf.event_type,
            severity=leaf.severity,
            tenant_id=None if tenant is None else TenantId(tenant),
            device_id=DeviceId(device.decode()) if device else None,
            is_about_no_device=device == b"",
            data={name: value for (kind, name), value in shown.items() if kind == DATA_FIELD},
            hidden=len(self.fields) - len(shown),
        )

    def _key_under(self, server_id: bytes | None) -> LogKey:
        if server_id is None:
            message = "pin the log by one of server_id and verifier key: a disclosure vouches for nobody"
            raise OtherLogError(message)
        try:
            return LogKey.of(decode_identity(self.identity, server_id=server_id).certificate)
        except ServerIdentityError as failure:
            message = f"the disclosure is of another log: {failure}"
            raise OtherLogError(message) from None


def _field_json(field: ShownField | bytes) -> dict[str, str]:
    if isinstance(field, bytes):
        return {"commitment": _encode(field)}
    value = field.field.value
    return {
        "kind": _KINDS[field.field.kind],
        "name": field.field.name,
        "value": value.hex() if field.field.kind == TENANT_FIELD else value.decode(),
        "salt": _encode(field.salt),
    }


def _field_of(found: object) -> ShownField | bytes:
    if not isinstance(found, dict):
        raise _bad("field")
    if "commitment" in found:
        return _decode(found["commitment"], "commitment", HASH_BYTES)
    kinds = {name: kind for kind, name in _KINDS.items()}
    kind, name, value = (found.get(key) for key in ("kind", "name", "value"))
    if not isinstance(kind, str) or kind not in kinds or not isinstance(name, str) or not isinstance(value, str):
        raise _bad("field")
    try:
        encoded = bytes.fromhex(value) if kinds[kind] == TENANT_FIELD else value.encode()
        name.encode()
    except ValueError:
        raise _bad("field") from None
    if (kinds[kind] == TENANT_FIELD and len(encoded) != TENANT_BYTES) or (kinds[kind] != DATA_FIELD and name):
        raise _bad("field")
    return ShownField(Field(kinds[kind], name, encoded), _decode(found.get("salt"), "salt", SALT_BYTES))


def _encode(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decode(text: object, name: str, size: int | None = None) -> bytes:
    try:
        decoded = base64.b64decode(text.encode("ascii"), validate=True) if isinstance(text, str) else None
    except (UnicodeEncodeError, binascii.Error):
        decoded = None
    if decoded is None or size not in (None, len(decoded)):
        raise _bad(name)
    return decoded


def _bad(name: str) -> DecodeError:
    message = f"the disclosure's {name} is none: the file is damaged"
    return DecodeError(message)
