"""
Evidence (H9): what a device keeps of a session for third parties; it opens nothing and names no session key.

Whoever has it and `root vk ‖ CERT` recomputes who, leaf, root and signature: the server's log key stated that this
device, with these keys, finished this handshake.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, DecodeError
from qflare.model.ids import DeviceRef, SessionId, TenantId
from qflare.protocol.leaf import WHO_KEY_BYTES, session_leaf, who_of
from qflare.protocol.log import hash_leaf
from qflare.protocol.receipt import Receipt, decode_receipt, verify_receipt
from qflare.protocol.wire import (
    FORM_HELLO,
    FORM_OFFER,
    HASH_BYTES,
    M4_BYTES_MAX,
    M4_RECEIPT_AT,
    REF_BYTES,
    SERVER_ID_BYTES,
    SID_BYTES,
    SUITE,
    TENANT_BYTES,
    TYPE_M4,
    U32_MAX,
    U64_MAX,
    VERSION,
)

if TYPE_CHECKING:
    from qflare.protocol.identity import ServerIdentity

EVIDENCE_FORMAT: Final = "qflare-evidence-1"
_JSON_CHARS_MAX: Final = 1 << 14
"""Longest JSON that is read; the longest honest one has some 6,000 characters."""
_BYTES_FIELDS: Final = {
    "m4": None,
    "th3_hash": HASH_BYTES,
    "who_key": WHO_KEY_BYTES,
    "server_id": SERVER_ID_BYTES,
    "sid": SID_BYTES,
    "tenant_id": TENANT_BYTES,
    "ref": REF_BYTES,
}
_INTEGER_FIELDS: Final = {"form": FORM_OFFER, "suite": 0xFFFF, "start": U64_MAX, "key_version": U32_MAX}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """M4 and what is needed to recompute the leaf that its receipt is about."""

    m4: bytes
    th3_hash: bytes
    """H(th3), 64 bytes."""
    who_key: bytes
    """``Expand(ck2, "who", th3, 32)``; it shows who took part, and nothing of the session's keys."""
    form: int
    suite: int
    server_id: bytes
    sid: SessionId
    start: int
    tenant_id: TenantId
    ref: DeviceRef
    key_version: int

    def leaf_data(self) -> bytes:
        """Return the leaf data of the session's log entry, recomputed."""
        who = who_of(tenant_id=self.tenant_id, ref=self.ref, key_version=self.key_version, who_key=self.who_key)
        return session_leaf(
            form=self.form,
            suite=self.suite,
            server_id=self.server_id,
            sid=self.sid,
            start=self.start,
            th3_hash=self.th3_hash,
            who=who,
        )

    def to_json(self) -> str:
        """Write the evidence as JSON: integers as numbers, bytes as base64."""
        fields: dict[str, str | int] = {"format": EVIDENCE_FORMAT}
        for name in _BYTES_FIELDS:
            value: bytes = getattr(self, name)
            fields[name] = base64.b64encode(value).decode()
        for name in _INTEGER_FIELDS:
            number: int = getattr(self, name)
            fields[name] = number
        return json.dumps(fields, sort_keys=True, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """
        Read evidence from JSON; nothing is verified by that (`verify_evidence`).

        Raises:
            DecodeError: it is no evidence of this format.
        """
        fields = _decode_object(text)
        known = {"format", *_BYTES_FIELDS, *_INTEGER_FIELDS}
        if fields.get("format") != EVIDENCE_FORMAT or set(fields) != known:
            message = f"evidence of format {EVIDENCE_FORMAT!r} has exactly the fields {', '.join(sorted(known))}"
            raise DecodeError(message)
        values = {name: _decode_bytes(name, fields[name], size) for name, size in _BYTES_FIELDS.items()}
        numbers = {name: _decode_integer(name, fields[name], last) for name, last in _INTEGER_FIELDS.items()}
        return cls(
            m4=values["m4"],
            th3_hash=values["th3_hash"],
            who_key=values["who_key"],
            server_id=values["server_id"],
            sid=SessionId(values["sid"]),
            tenant_id=TenantId(values["tenant_id"]),
            ref=DeviceRef(values["ref"]),
            form=numbers["form"],
            suite=numbers["suite"],
            start=numbers["start"],
            key_version=numbers["key_version"],
        )


def verify_evidence(
    evidence: Evidence,
    identity: ServerIdentity,
    *,
    tenant_id: TenantId | None = None,
    ref: DeviceRef | None = None,
    key_version: int | None = None,
) -> Receipt:
    """
    Verify evidence under a server's identity and return its receipt: index, size and time of the log's statement.

    Args:
        evidence: What a device kept.
        identity: The server's root and CERT, themselves verified against the server_id that is trusted.
        tenant_id: If given, must be the evidence's.
        ref: If given, must be the evidence's.
        key_version: If given, must be the evidence's.

    Raises:
        AuthenticationError: anything does not hold.
        DecodeError: its M4 is no M4.
    """
    receipt = receipt_of(evidence.m4, sid=evidence.sid)
    certificate = identity.certificate
    has_expected_terms = (
        evidence.server_id == certificate.server_id
        and evidence.suite == certificate.suite == SUITE
        and tenant_id in (None, evidence.tenant_id)
        and ref in (None, evidence.ref)
        and key_version in (None, evidence.key_version)
    )
    if not has_expected_terms:
        raise AuthenticationError
    leaf_hash = hash_leaf(evidence.leaf_data())
    verify_receipt(receipt, leaf_hash, log_key=certificate.log_key, origin=certificate.log_origin)
    return receipt


def receipt_of(m4: bytes, *, sid: SessionId) -> Receipt:
    """
    Take the receipt out of an M4.

    Raises:
        DecodeError: it is no M4 of session *sid*.
    """
    if len(m4) > M4_BYTES_MAX or m4[: 2 + SID_BYTES] != bytes((TYPE_M4, VERSION)) + sid:
        message = "the message is no M4 of this session"
        raise DecodeError(message)
    return decode_receipt(m4[M4_RECEIPT_AT:])


def _decode_object(text: str | bytes) -> dict[str, object]:
    loaded: object = None
    if len(text) <= _JSON_CHARS_MAX:
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError):
            loaded = None
    if not isinstance(loaded, dict):
        message = f"evidence is a JSON object of at most {_JSON_CHARS_MAX} characters"
        raise DecodeError(message)
    return loaded


def _decode_bytes(name: str, value: object, size: int | None) -> bytes:
    try:
        decoded = base64.b64decode(value, validate=True) if isinstance(value, str) else None
    except (ValueError, binascii.Error):
        decoded = None
    if decoded is None or size not in (None, len(decoded)):
        message = f"evidence field {name!r} must be base64" + (f" of {size} bytes" if size is not None else "")
        raise DecodeError(message)
    return decoded


def _decode_integer(name: str, value: object, last: int) -> int:
    first = FORM_HELLO if name == "form" else 0
    if type(value) is not int or not first <= value <= last:
        message = f"evidence field {name!r} must be an integer from {first} to {last}"
        raise DecodeError(message)
    return value
