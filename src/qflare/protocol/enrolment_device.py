"""The device's side of enrolment: a token and fresh keys in, ENROL out, ENROLLED in (E2, E3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import AuthenticationError, DecodeError, RefusedError, UsageError
from qflare.primitives import kem
from qflare.primitives.aead import NONCE_ZERO, seal
from qflare.primitives.aead import open as open_sealed
from qflare.primitives.hash import transcript
from qflare.primitives.kdf import expand, extract
from qflare.primitives.sig import SIG44
from qflare.protocol import labels, wire
from qflare.protocol.enrolment import ENROL_HEAD, ENROLLED_HEAD
from qflare.protocol.identity import encode_name
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qflare.protocol.announcement import Announcement
    from qflare.protocol.device_keys import DeviceKeys
    from qflare.protocol.token import EnrolmentToken

_KEY_VERSION_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingEnrolment:
    """A device between ENROL and ENROLLED; it owns `ck1`. The keys are kept beside it, durably."""

    message: bytes
    """ENROL, 6960 bytes; the same bytes may be sent again."""
    bucket: int
    th1: bytes
    ck1: SecretBytes

    def wipe(self) -> None:
        """Destroy the secret."""
        self.ck1.wipe()

    def to_state(self) -> dict[str, bytes | int | SecretBytes]:
        """Return the fields for the state file; the caller owns and wipes the secret among them."""
        return {
            "message": self.message,
            "bucket": self.bucket,
            "th1": self.th1,
            "ck1": SecretBytes.copy_of(self.ck1),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, bytes | int | SecretBytes]) -> Self:
        """
        Rebuild from `to_state`'s fields.

        Raises:
            DecodeError: a field is missing or has a wrong type or size.
        """
        message, bucket, th1, ck1 = (state.get(name) for name in ("message", "bucket", "th1", "ck1"))
        if (
            not isinstance(message, bytes)
            or len(message) != wire.ENROL_BYTES
            or not isinstance(th1, bytes)
            or len(th1) != wire.HASH_BYTES
            or not isinstance(ck1, SecretBytes)
            or len(ck1) != wire.SECRET_BYTES
            or type(bucket) is not int
        ):
            text = "the state holds no pending enrolment; begin it again with the token"
            raise DecodeError(text)
        return cls(message=message, bucket=bucket, th1=th1, ck1=SecretBytes.copy_of(ck1))

    def __enter__(self) -> Self:
        """Lend the state to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the secret at the end of the block."""
        self.wipe()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What the server told the device: the version of its keys, and its first bucket mark."""

    key_version: int
    bucket_mark: int


def start_enrolment(
    token: EnrolmentToken, device_id: str, announcement: Announcement, keys: DeviceKeys
) -> PendingEnrolment:
    """
    Make ENROL.

    Args:
        token: From `decode_token`; the caller wipes it.
        device_id: What the device was told it is called, 1 to 255 bytes of UTF-8.
        announcement: A verified announcement of the server that the token names.
        keys: The device's fresh keys; the caller keeps them durably before ENROL is sent.

    Raises:
        UsageError: the announcement is of another server than the token's, or *device_id* cannot be used.
        EntropyError: the random source failed.

    Source: docs/protocol.md, step E2.
    """
    if announcement.server_id != token.server_id:
        message = "the token is for another server than the announcement's: check the address the device was given"
        raise UsageError(message)
    name = encode_name(device_id)
    encapsulated = kem.encapsulate(announcement.encapsulation_key)
    header = ENROL_HEAD + wire.u64(announcement.bucket) + encapsulated.ciphertext
    th1 = transcript(labels.HASH_ENROL, wire.SUITE_FIELD, announcement.body_hash, header)
    with encapsulated.shared_secret as ss_b:
        ck1 = extract(th1, ss_b)
    try:
        digest = transcript(th1, token.token_id, token.tenant_id, name, keys.verification_key, keys.encapsulation_key)
        signature = SIG44.sign(keys.signing_key, digest, context=labels.CONTEXT_ENROL)
        with SecretBytes.zeros(wire.ENROL_PLAINTEXT_BYTES) as plaintext, plaintext.view() as out:
            at = 0
            with token.secret.view() as secret:
                for field in (
                    token.tenant_id,
                    token.token_id,
                    secret,
                    keys.verification_key,
                    keys.encapsulation_key,
                    signature,
                ):
                    out[at : at + len(field)] = field
                    at += len(field)
            with expand(ck1, labels.EXPAND_ENROL, th1, wire.AEAD_KEY_BYTES) as key:
                c1 = seal(key, NONCE_ZERO, plaintext, th1)
    except BaseException:
        ck1.wipe()
        raise
    return PendingEnrolment(message=header + c1, bucket=announcement.bucket, th1=th1, ck1=ck1)


def accept_enrolled(pending: PendingEnrolment, message: bytes, keys: DeviceKeys) -> Enrolled:
    """
    Open ENROLLED.

    Args:
        pending: From `start_enrolment`; the caller wipes it.
        message: The server's answer.
        keys: The keys that were enrolled.

    Raises:
        AuthenticationError: anything about the message is wrong; the same ENROL may be sent again.
        RefusedError: it opened, but its key_version is 0.

    Source: docs/protocol.md, step E3.
    """
    if len(message) != wire.ENROLLED_BYTES or message[: wire.ENROLLED_CT_AT] != ENROLLED_HEAD:
        raise AuthenticationError
    ciphertext = message[wire.ENROLLED_CT_AT : wire.ENROLLED_SEALED_AT]
    with kem.decapsulate(keys.decapsulation_key, ciphertext) as ss_d, extract(pending.ck1, ss_d) as inner:
        key = expand(inner, labels.EXPAND_ENROLLED, pending.th1, wire.AEAD_KEY_BYTES)
    bound = transcript(pending.th1, ciphertext)
    with key, open_sealed(key, NONCE_ZERO, message[wire.ENROLLED_SEALED_AT :], bound) as plaintext:
        opened = bytes(plaintext.view())  # SAFETY: key_version and mark are no secrets
    key_version = int.from_bytes(opened[:_KEY_VERSION_BYTES], "big")
    if key_version < 1:
        text = "the server enrolled the device with key_version 0, which no key has"
        raise RefusedError(text)
    return Enrolled(key_version=key_version, bucket_mark=int.from_bytes(opened[_KEY_VERSION_BYTES:], "big"))
