"""The announcement of a bucket's key: the same signed bytes for everybody (A3, A5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from qflare.errors import (
    AuthenticationError,
    KeyCheckError,
    LengthError,
    RefusedError,
    ServerIdentityError,
    StaleBucketError,
    UsageError,
)
from qflare.primitives.hash import transcript
from qflare.primitives.kem import EK_BYTES, check_encapsulation_key
from qflare.primitives.sig import SIG44
from qflare.protocol import labels, wire

if TYPE_CHECKING:
    from qflare.protocol.identity import Certificate, ServerIdentity
    from qflare.secret import SecretBytes

_SERVER_ID_AT: Final = 10
_WIDTH_AT: Final = 42
_BUCKET_AT: Final = 46
_HEAD: Final = labels.MAGIC_ANNOUNCEMENT + wire.SUITE_FIELD


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """`ann_b`, decoded. Public."""

    suite: int
    server_id: bytes
    width_s: int
    bucket: int
    encapsulation_key: bytes
    """`ek_b`, 1568 bytes."""
    body_hash: bytes
    """`H(body_b)`, 64 bytes: stands in every transcript of the bucket."""
    encoded: bytes


def sign_announcement(
    announce_sk: SecretBytes, *, server_id: bytes, width_s: int, bucket: int, encapsulation_key: bytes
) -> Announcement:
    """
    Make and sign a bucket's announcement.

    Args:
        announce_sk: ML-DSA-44 signing key of the certificate's announce key; the caller keeps it.
        server_id: 32 bytes.
        width_s: Seconds a bucket, at least 1.
        bucket: Index of the bucket.
        encapsulation_key: `ek_b`, 1568 bytes.

    Raises:
        LengthError: a value has the wrong size.
        UsageError: *width_s* or *bucket* is out of range.

    Source: docs/protocol.md, step A3.
    """
    if len(server_id) != wire.SERVER_ID_BYTES:
        name = "server_id"
        raise LengthError(name, expected=wire.SERVER_ID_BYTES, actual=len(server_id))
    if len(encapsulation_key) != EK_BYTES:
        name = "encapsulation_key"
        raise LengthError(name, expected=EK_BYTES, actual=len(encapsulation_key))
    if not 1 <= width_s <= wire.U32_MAX or not 0 <= bucket <= wire.U64_MAX:
        message = f"width_s must be 1 to {wire.U32_MAX} and bucket must fit 64 bits, got {width_s} and {bucket}"
        raise UsageError(message)
    body = b"".join((_HEAD, server_id, wire.u32(width_s), wire.u64(bucket), encapsulation_key))
    body_hash = transcript(body)
    return Announcement(
        suite=wire.SUITE,
        server_id=server_id,
        width_s=width_s,
        bucket=bucket,
        encapsulation_key=bytes(encapsulation_key),
        body_hash=body_hash,
        encoded=body + SIG44.sign(announce_sk, body_hash, context=labels.CONTEXT_ANNOUNCEMENT),
    )


def sign_again(announce_sk: SecretBytes, announcement: Announcement) -> Announcement:
    """
    Sign the same body under another announce key: no transcript changes, for they hold the body's hash alone (A3).

    Raises:
        EntropyError: the random source failed; nothing was signed.
    """
    signature = SIG44.sign(announce_sk, announcement.body_hash, context=labels.CONTEXT_ANNOUNCEMENT)
    return replace(announcement, encoded=announcement.encoded[: wire.ANNOUNCEMENT_BODY_BYTES] + signature)


def verify_announcement(
    encoded: bytes,
    certificate: Certificate,
    *,
    minimum_bucket: int = 0,
    width_s: int | None = None,
    held: Announcement | None = None,
) -> Announcement:
    """
    Check an announcement as a device does.

    Args:
        encoded: 4042 bytes.
        certificate: CERT, checked before.
        minimum_bucket: The device's mark; nothing below it is accepted.
        width_s: The width stored for this server, if any.
        held: The announcement of the same bucket that is held already, if any.

    Raises:
        AuthenticationError: it is altered, or not this server's.
        ServerIdentityError: it is this server's, but *certificate* does not cover its bucket.
        StaleBucketError: it is the server's, but its bucket is below *minimum_bucket*.
        RefusedError: it is the server's, but has another width, or another body than *held* for the same bucket:
            an alarm, for the server has one key a bucket.

    Source: docs/protocol.md, step A5.
    """
    if len(encoded) != wire.ANNOUNCEMENT_BYTES or encoded[:_SERVER_ID_AT] != _HEAD:
        raise AuthenticationError
    if encoded[_SERVER_ID_AT:_WIDTH_AT] != certificate.server_id:
        raise AuthenticationError
    announced_width_s = int.from_bytes(encoded[_WIDTH_AT:_BUCKET_AT], "big")
    bucket = int.from_bytes(encoded[_BUCKET_AT : wire.ANNOUNCEMENT_EK_AT], "big")
    if announced_width_s < 1:
        raise AuthenticationError
    body_hash = transcript(encoded[: wire.ANNOUNCEMENT_BODY_BYTES])
    SIG44.verify(
        certificate.announce_key,
        body_hash,
        encoded[wire.ANNOUNCEMENT_BODY_BYTES :],
        context=labels.CONTEXT_ANNOUNCEMENT,
    )
    # A5: what is said about the server's own bytes from here on is said only once they are known to be the server's.
    if not certificate.has_bucket(bucket):
        message = (
            f"the announcement is of bucket {bucket}, the server's certificate of serial {certificate.serial} covers "
            f"{certificate.first_bucket} to {certificate.last_bucket}: the operator issues a new one "
            "(qflare identity rotate)"
        )
        raise ServerIdentityError(message)
    if bucket < minimum_bucket:
        message = (
            f"announcement of bucket {bucket} is below the bucket {minimum_bucket} that was seen; fetch a newer one"
        )
        raise StaleBucketError(message)
    if width_s is not None and announced_width_s != width_s:
        message = f"the server announces buckets of {announced_width_s} s, it had {width_s} s before"
        raise RefusedError(message)
    if held is not None and held.bucket == bucket and held.body_hash != body_hash:
        message = f"the server announces two keys for bucket {bucket}"
        raise RefusedError(message)
    encapsulation_key = bytes(encoded[wire.ANNOUNCEMENT_EK_AT : wire.ANNOUNCEMENT_BODY_BYTES])
    _check_key(encapsulation_key)
    return Announcement(
        suite=wire.SUITE,
        server_id=certificate.server_id,
        width_s=announced_width_s,
        bucket=bucket,
        encapsulation_key=encapsulation_key,
        body_hash=body_hash,
        encoded=bytes(encoded),
    )


def accept_announcement(
    encoded: bytes,
    server: ServerIdentity,
    *,
    minimum_bucket: int = 0,
    width_s: int | None = None,
    held: Announcement | None = None,
) -> Announcement:
    """
    Check an announcement under the CERT in force, and under the one held before while that is good (A1).

    Arguments and errors are those of `verify_announcement`.
    """
    # Which CERT may be tried hangs on the bucket that the bytes name; either signature covers it.
    certificates = server.certificates(int.from_bytes(encoded[_BUCKET_AT : wire.ANNOUNCEMENT_EK_AT], "big"))
    for certificate in certificates[:-1]:
        try:
            return verify_announcement(encoded, certificate, minimum_bucket=minimum_bucket, width_s=width_s, held=held)
        except AuthenticationError:
            continue
    return verify_announcement(encoded, certificates[-1], minimum_bucket=minimum_bucket, width_s=width_s, held=held)


def _check_key(encapsulation_key: bytes) -> None:
    try:
        check_encapsulation_key(encapsulation_key)
    except KeyCheckError:
        is_good = False
    else:
        is_good = True
    if not is_good:
        raise AuthenticationError
