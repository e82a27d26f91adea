"""Who the server is: its pinned id, its root key and the certificate of its online keys (A1); names of devices (H2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, DecodeError, LengthError, RefusedError, ServerIdentityError, UsageError
from qflare.model.ids import NAME_BYTES_MAX, DeviceId, DeviceRef, TenantId
from qflare.primitives.hash import transcript, transcript_var_many
from qflare.primitives.sig import SIG44, SIG87
from qflare.protocol import labels, wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.secret import SecretBytes

_SERVER_ID_AT: Final = 10
_SERIAL_AT: Final = 42
_ANNOUNCE_KEY_AT: Final = 50
_LOG_KEY_AT: Final = _ANNOUNCE_KEY_AT + SIG44.PK_BYTES
_FIRST_BUCKET_AT: Final = _LOG_KEY_AT + SIG44.PK_BYTES
_LAST_BUCKET_AT: Final = _FIRST_BUCKET_AT + 8
_ORIGIN_SIZE_AT: Final = _LAST_BUCKET_AT + 8
_HEAD: Final = labels.MAGIC_CERTIFICATE + wire.SUITE_FIELD
_C1_FIRST: Final = 0x7F
"""DEL, then the control characters of Latin-1's upper half."""
_C1_LAST: Final = 0x9F


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """CERT: what the root vouches for. Public."""

    suite: int
    server_id: bytes
    serial: int
    announce_key: bytes
    """ML-DSA-44, 1312 bytes: signs announcements."""
    log_key: bytes
    """ML-DSA-44, 1312 bytes: signs the log's checkpoints."""
    first_bucket: int
    last_bucket: int
    """Inclusive, as is the first."""
    log_origin: str
    encoded: bytes

    def has_bucket(self, bucket: int) -> bool:
        """Return whether the certificate covers *bucket*."""
        return self.first_bucket <= bucket <= self.last_bucket


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """The root key and the certificate that it signed. Public."""

    root_key: bytes
    """ML-DSA-87, 2592 bytes."""
    certificate: Certificate
    previous: Certificate | None = None
    """The CERT held before, while what it vouches for may still be under way."""
    previous_last: int = -1
    """Last bucket, inclusive, for which the CERT held before is good."""

    @property
    def server_id(self) -> bytes:
        """Return the id that devices pin, 32 bytes."""
        return self.certificate.server_id

    @property
    def served(self) -> bytes:
        """Return `root vk ‖ CERT`, as it is served."""
        return self.root_key + self.certificate.encoded

    def certificates(self, bucket: int) -> tuple[Certificate, ...]:
        """Return the CERTs that are good for what belongs to *bucket*, the one in force first."""
        if self.previous is None or bucket > self.previous_last:
            return (self.certificate,)
        return (self.certificate, self.previous)

    def follow(self, served: bytes, *, bucket: int) -> ServerIdentity:
        """
        Check `root vk ‖ CERT` as it is served now against what is held, and return what is held from now on.

        The CERT held so far stays good for what is under way, to bucket *bucket* + 2: caches and slower workers still
        show announcements and receipts under its keys.  Only if the new serial is the next one: a serial that was left
        out says that the keys before it are good for nothing any more.

        Args:
            served: What the server sent.
            bucket: The highest bucket that the device has seen.

        Raises:
            ServerIdentityError: it is another server's.
            AuthenticationError: it is altered.
            RefusedError: its serial fell, or other bytes came under the serial that is held.

        Source: docs/protocol.md, step A1.
        """
        now = decode_identity(served, server_id=self.server_id, held=self.certificate)
        if now.certificate.serial == self.certificate.serial:
            return self
        if now.certificate.serial != self.certificate.serial + 1:
            return now
        return ServerIdentity(
            root_key=now.root_key,
            certificate=now.certificate,
            previous=self.certificate,
            previous_last=bucket + wire.OVERLAP_BUCKETS,
        )


def server_id_of(root_key: bytes) -> bytes:
    """
    Return `server_id = H("server", root vk)[:32]`.

    Raises:
        LengthError: *root_key* is not 2592 bytes.

    Source: docs/protocol.md, step A1.
    """
    _require_size("root_key", root_key, SIG87.PK_BYTES)
    return transcript(labels.HASH_SERVER, root_key)[: wire.SERVER_ID_BYTES]


def encode_name(name: str) -> bytes:
    """
    Return the UTF-8 bytes of a device's or tenant's name, exactly as given.

    Raises:
        UsageError: not 1 to 255 bytes of UTF-8, or with a NUL, which PostgreSQL's text cannot hold.
    """
    given: object = name
    if not isinstance(given, str):
        message = f"a name must be text, got {type(given).__name__}"
        raise UsageError(message)
    try:
        encoded = given.encode("utf-8")
    except UnicodeEncodeError:
        encoded = b""
    if not 1 <= len(encoded) <= NAME_BYTES_MAX or 0 in encoded:
        message = f"a name must be 1 to {NAME_BYTES_MAX} bytes of UTF-8 without NUL"
        raise UsageError(message)
    return encoded


def device_ref(tenant_id: bytes, device_id: str) -> DeviceRef:
    """
    Return `ref = H("device", tenant_id, device_id)[:32]`.

    Raises:
        LengthError: *tenant_id* is not 16 bytes.
        UsageError: *device_id* is not 1 to 255 bytes of UTF-8.

    Source: docs/protocol.md, step H2.
    """
    _require_size("tenant_id", tenant_id, wire.TENANT_BYTES)
    return DeviceRef(transcript(labels.HASH_DEVICE, tenant_id, encode_name(device_id))[: wire.REF_BYTES])


def device_refs_many(devices: Sequence[tuple[TenantId, DeviceId]]) -> list[DeviceRef]:
    """Return the ref of each (tenant_id, device_id); errors as `device_ref`."""
    parts: list[tuple[bytes, bytes, bytes]] = []
    for tenant_id, device_id in devices:
        _require_size("tenant_id", tenant_id, wire.TENANT_BYTES)
        parts.append((labels.HASH_DEVICE, tenant_id, encode_name(device_id)))
    hashes = transcript_var_many(parts)
    return [
        DeviceRef(bytes(hashes[start : start + wire.REF_BYTES])) for start in range(0, len(hashes), wire.HASH_BYTES)
    ]


def issue_certificate(
    root_sk: SecretBytes,
    root_key: bytes,
    *,
    serial: int,
    announce_key: bytes,
    log_key: bytes,
    first_bucket: int,
    last_bucket: int,
    log_origin: str,
) -> Certificate:
    """
    Sign a certificate under the root.

    Args:
        root_sk: ML-DSA-87 signing key of the root; the caller keeps it.
        root_key: The root's ML-DSA-87 verification key, 2592 bytes.
        serial: Higher than every serial before.
        announce_key: ML-DSA-44 verification key, 1312 bytes.
        log_key: ML-DSA-44 verification key, 1312 bytes.
        first_bucket: First bucket that the certificate covers, inclusive.
        last_bucket: Last bucket that the certificate covers, inclusive.
        log_origin: The log's C2SP name: 1 to 255 bytes of UTF-8 without white space, control characters or "+".

    Raises:
        LengthError: a key has the wrong size.
        UsageError: a number, the origin or the pair of root keys cannot be used.

    Source: docs/protocol.md, step A1.
    """
    body = certificate_body(
        root_key,
        serial=serial,
        announce_key=announce_key,
        log_key=log_key,
        first_bucket=first_bucket,
        last_bucket=last_bucket,
        log_origin=log_origin,
    )
    return sign_certificate(root_sk, root_key, body)


def certificate_body(
    root_key: bytes,
    *,
    serial: int,
    announce_key: bytes,
    log_key: bytes,
    first_bucket: int,
    last_bucket: int,
    log_origin: str,
) -> bytes:
    """Return what the root signs: CERT without its signature; arguments and errors as `issue_certificate`."""
    _require_size("announce_key", announce_key, SIG44.PK_BYTES)
    _require_size("log_key", log_key, SIG44.PK_BYTES)
    if not 0 <= serial <= wire.U64_MAX or not 0 <= first_bucket <= last_bucket <= wire.U64_MAX:
        message = "serial and buckets must fit 64 bits, and first_bucket must not be above last_bucket"
        raise UsageError(message)
    origin = encode_name(log_origin)
    if not _is_origin(log_origin, origin):
        message = f"log_origin must be 1 to {wire.ORIGIN_BYTES_MAX} bytes without white space, controls or '+'"
        raise UsageError(message)
    return b"".join(
        (
            _HEAD,
            server_id_of(root_key),
            wire.u64(serial),
            announce_key,
            log_key,
            wire.u64(first_bucket),
            wire.u64(last_bucket),
            bytes((len(origin),)),
            origin,
        )
    )


def sign_certificate(root_sk: SecretBytes, root_key: bytes, body: bytes) -> Certificate:
    """
    Sign what `certificate_body` returned, where the root is.

    Raises:
        LengthError: *root_key* is not 2592 bytes.
        DecodeError: *body* is no body of a certificate.
        ServerIdentityError: it is for another root.
        UsageError: *root_sk* does not belong to *root_key*.

    Source: docs/protocol.md, step A1.
    """
    # What is signed is read first: a root must not sign what it does not understand.
    unsigned = decode_certificate_body(body, root_key=root_key)
    digest = transcript(body)
    signature = SIG87.sign(root_sk, digest, context=labels.CONTEXT_CERTIFICATE)
    try:
        SIG87.verify(root_key, digest, signature, context=labels.CONTEXT_CERTIFICATE)
    except AuthenticationError:
        is_pair = False
    else:
        is_pair = True
    if not is_pair:
        message = "root_sk does not belong to root_key; give the pair"
        raise UsageError(message)
    return replace(unsigned, encoded=body + signature)


def decode_certificate_body(body: bytes, *, root_key: bytes) -> Certificate:
    """
    Read CERT's body; `encoded` of what it returns is the body, and nothing vouches for it.

    Raises:
        DecodeError: it is no body of a certificate of this suite.
        ServerIdentityError: it is for another root.
        LengthError: *root_key* is not 2592 bytes.
    """
    server_id = server_id_of(root_key)
    certificate = _read(body, len(body))
    if certificate is None:
        message = "this is no certificate to be signed; make one with  qflare identity request"
        raise DecodeError(message)
    if certificate.server_id != server_id:
        message = (
            f"the certificate is for the server {certificate.server_id.hex()}, this root is of {server_id.hex()}: "
            "use the root that belongs to it"
        )
        raise ServerIdentityError(message)
    return certificate


def decode_certificate(encoded: bytes, *, root_key: bytes) -> Certificate:
    """
    Check CERT under *root_key* and return it.

    Raises:
        AuthenticationError: anything about it is wrong, be it length, field or signature.
        LengthError: *root_key* is not 2592 bytes.

    Source: docs/protocol.md, step A1.
    """
    server_id = server_id_of(root_key)
    origin_end = max(0, len(encoded) - SIG87.SIG_BYTES)
    certificate = _read(encoded, origin_end)
    if certificate is None or certificate.server_id != server_id:
        raise AuthenticationError
    SIG87.verify(root_key, transcript(encoded[:origin_end]), encoded[origin_end:], context=labels.CONTEXT_CERTIFICATE)
    return certificate


def _read(encoded: bytes, origin_end: int) -> Certificate | None:
    """Take apart what begins *encoded*, up to *origin_end*; None where a length or a field is impossible."""
    if origin_end <= wire.CERTIFICATE_ORIGIN_AT or encoded[:_SERVER_ID_AT] != _HEAD:
        return None
    origin = encoded[wire.CERTIFICATE_ORIGIN_AT : origin_end]
    log_origin = origin.decode("utf-8", errors="replace")
    first_bucket = int.from_bytes(encoded[_FIRST_BUCKET_AT:_LAST_BUCKET_AT], "big")
    last_bucket = int.from_bytes(encoded[_LAST_BUCKET_AT:_ORIGIN_SIZE_AT], "big")
    if encoded[_ORIGIN_SIZE_AT] != len(origin) or first_bucket > last_bucket or not _is_origin(log_origin, origin):
        return None
    return Certificate(
        suite=wire.SUITE,
        server_id=bytes(encoded[_SERVER_ID_AT:_SERIAL_AT]),
        serial=int.from_bytes(encoded[_SERIAL_AT:_ANNOUNCE_KEY_AT], "big"),
        announce_key=bytes(encoded[_ANNOUNCE_KEY_AT:_LOG_KEY_AT]),
        log_key=bytes(encoded[_LOG_KEY_AT:_FIRST_BUCKET_AT]),
        first_bucket=first_bucket,
        last_bucket=last_bucket,
        log_origin=log_origin,
        encoded=bytes(encoded),
    )


def decode_identity(served: bytes, *, server_id: bytes, held: Certificate | None = None) -> ServerIdentity:
    """
    Check `root vk ‖ CERT` against the pinned *server_id*, and against the certificate *held* so far.

    Raises:
        ServerIdentityError: it is another server's than the pinned one.
        AuthenticationError: it is altered.
        RefusedError: it is the pinned server's, but its serial fell, or other bytes came under the serial of *held*.

    Source: docs/protocol.md, step A1.
    """
    if len(served) < SIG87.PK_BYTES:
        raise AuthenticationError
    root_key = bytes(served[: SIG87.PK_BYTES])
    # Both values are public: no constant time needed.
    if (actual := server_id_of(root_key)) != server_id:
        message = (
            f"the server that answered is {actual.hex()}, the pinned one is {server_id.hex()}: check the address; a "
            "server that was set up anew is another one, and devices enrol again"
        )
        raise ServerIdentityError(message)
    certificate = decode_certificate(served[SIG87.PK_BYTES :], root_key=root_key)
    if held is not None and certificate.serial < held.serial:
        message = (
            f"the server's certificate has serial {certificate.serial}, serial {held.serial} was seen before: an old "
            "copy is shown, by a cache, a restored database or somebody between"
        )
        raise RefusedError(message)
    if held is not None and certificate.serial == held.serial and certificate.encoded != held.encoded:
        message = (
            f"the server shows two certificates of serial {held.serial}: its root signed twice, which it never does; "
            "keep both and alert the operator"
        )
        raise RefusedError(message)
    return ServerIdentity(root_key=root_key, certificate=certificate)


def _is_origin(text: str, encoded: bytes) -> bool:
    # Encoding back shows bytes that were no UTF-8: they were replaced when they were decoded.
    if not 1 <= len(encoded) <= wire.ORIGIN_BYTES_MAX or text.encode("utf-8") != encoded:
        return False
    return not any(
        character <= " " or character == "+" or character.isspace() or _C1_FIRST <= ord(character) <= _C1_LAST
        for character in text
    )


def _require_size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise LengthError(name, expected=size, actual=len(value))
