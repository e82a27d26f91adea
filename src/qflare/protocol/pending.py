"""What a device has pending between two messages, and keeps durably so that it goes on after a crash (H7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeAlias

from qflare.errors import DecodeError
from qflare.primitives.kem import DK_BYTES
from qflare.protocol import wire
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Mapping

State: TypeAlias = dict[str, bytes | int | SecretBytes]
"""Field names and values for a state file; secrets stay `SecretBytes`, and whoever writes the file wipes them."""

PENDING_OFFERS_MAX: Final = 8
"""Answers a device keeps at most: anyone who knows `ek_D` can make an OFFER (O2)."""


@dataclass(slots=True, kw_only=True)
class PendingHello:
    """A device between M1 and M2; it owns the secrets in it."""

    message: bytes
    """M1, 5636 bytes: after a lost M2 the same bytes are sent again (H7)."""
    bucket: int
    """hdr.b."""
    th1: bytes
    ck1: SecretBytes
    decapsulation_key: SecretBytes
    """`dk_e`, 3168 bytes."""

    @property
    def c1(self) -> bytes:
        """Return the sealed name, as it stands in M1."""
        return self.message[wire.M1_HEADER_BYTES :]

    def wipe(self) -> None:
        """Destroy the secrets."""
        self.ck1.wipe()
        self.decapsulation_key.wipe()

    def to_state(self) -> State:
        """Return the fields for the state file; the caller owns and wipes the secrets among them."""
        return {
            "message": self.message,
            "bucket": self.bucket,
            "th1": self.th1,
            "ck1": SecretBytes.copy_of(self.ck1),
            "decapsulation_key": SecretBytes.copy_of(self.decapsulation_key),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, bytes | int | SecretBytes]) -> Self:
        """
        Rebuild from `to_state`'s fields.

        Raises:
            DecodeError: a field is missing or has a wrong type or size.
        """
        message = _bytes_of(state, "message", wire.M1_BYTES)
        bucket = _int_of(state, "bucket", 0, wire.U64_MAX)
        th1 = _bytes_of(state, "th1", wire.HASH_BYTES)
        return cls(
            message=message,
            bucket=bucket,
            th1=th1,
            ck1=_secret_of(state, "ck1", wire.SECRET_BYTES),
            decapsulation_key=_secret_of(state, "decapsulation_key", DK_BYTES),
        )

    def __enter__(self) -> Self:
        """Lend the state to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secrets at the end of the block."""
        self.wipe()


@dataclass(slots=True, kw_only=True)
class PendingConfirmation:
    """A device between M3 or ANSWER and M4; it owns `ck2`."""

    form: int
    message: bytes
    """M3 (297 bytes) or ANSWER (1849 bytes), to be sent again until M4 comes (H7, O2)."""
    sid: bytes
    bucket: int
    """hdr.b."""
    start: int
    lifetime: int
    policy: int
    th1: bytes
    """Names a pending OFFER (O2)."""
    th3: bytes
    ck2: SecretBytes

    def replace_ticket(self, ticket: bytes) -> None:
        """Put the ticket of the OFFER at hand into the same ANSWER (O2)."""
        self.message = self.message[: wire.ANSWER_TICKET_AT] + ticket + self.message[wire.ANSWER_CT_AT :]

    def wipe(self) -> None:
        """Destroy the secret."""
        self.ck2.wipe()

    def to_state(self) -> State:
        """Return the fields for the state file; the caller owns and wipes the secrets among them."""
        return {
            "form": self.form,
            "message": self.message,
            "sid": self.sid,
            "bucket": self.bucket,
            "start": self.start,
            "lifetime": self.lifetime,
            "policy": self.policy,
            "th1": self.th1,
            "th3": self.th3,
            "ck2": SecretBytes.copy_of(self.ck2),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, bytes | int | SecretBytes]) -> Self:
        """
        Rebuild from `to_state`'s fields.

        Raises:
            DecodeError: a field is missing or has a wrong type or size.
        """
        form = _int_of(state, "form", wire.FORM_HELLO, wire.FORM_OFFER)
        return cls(
            form=form,
            message=_bytes_of(state, "message", wire.M3_BYTES if form == wire.FORM_HELLO else wire.ANSWER_BYTES),
            sid=_bytes_of(state, "sid", wire.SID_BYTES),
            bucket=_int_of(state, "bucket", 0, wire.U64_MAX),
            start=_int_of(state, "start", 0, wire.U64_MAX),
            lifetime=_int_of(state, "lifetime", 1, wire.LIFETIME_MAX),
            policy=_int_of(state, "policy", 0, wire.U32_MAX),
            th1=_bytes_of(state, "th1", wire.HASH_BYTES),
            th3=_bytes_of(state, "th3", wire.HASH_BYTES),
            ck2=_secret_of(state, "ck2", wire.SECRET_BYTES),
        )

    def __enter__(self) -> Self:
        """Lend the state to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secret at the end of the block."""
        self.wipe()


def _secret_of(state: Mapping[str, bytes | int | SecretBytes], name: str, size: int) -> SecretBytes:
    value = state.get(name)
    if not isinstance(value, SecretBytes) or len(value) != size:
        message = f"state field {name!r} must be a secret of {size} bytes; begin a new handshake"
        raise DecodeError(message)
    return SecretBytes.copy_of(value)


def _bytes_of(state: Mapping[str, bytes | int | SecretBytes], name: str, size: int) -> bytes:
    value = state.get(name)
    if not isinstance(value, bytes) or len(value) != size:
        message = f"state field {name!r} must be {size} bytes; begin a new handshake"
        raise DecodeError(message)
    return value


def _int_of(state: Mapping[str, bytes | int | SecretBytes], name: str, first: int, last: int) -> int:
    value = state.get(name)
    if type(value) is not int or not first <= value <= last:
        message = f"state field {name!r} must be an integer from {first} to {last}; begin a new handshake"
        raise DecodeError(message)
    return value
