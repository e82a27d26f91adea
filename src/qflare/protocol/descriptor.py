"""Descriptors of mappings (K1): public and signed; the device needs one to derive what the server derives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError
from qflare.model.ids import DeviceRef, MappingId
from qflare.primitives.hash import transcript
from qflare.primitives.sig import SIG44
from qflare.protocol.labels import CONTEXT_MAPPING, MAGIC_MAPPING
from qflare.protocol.wire import (
    MAPPING_BODY_BYTES,
    MAPPING_BYTES,
    MAPPING_CT_AT,
    MAPPING_ID_BYTES,
    REF_BYTES,
    SUITE_FIELD,
    u32,
    u64,
)

if TYPE_CHECKING:
    from qflare.primitives.rows import Readable

KEY_HASH_BYTES: Final = 32
_HEAD: Final = MAGIC_MAPPING + SUITE_FIELD
_ID_AT: Final = len(_HEAD)
_GENERATION_AT: Final = _ID_AT + MAPPING_ID_BYTES
_BUCKET_AT: Final = _GENERATION_AT + 4
_WIDTH_AT: Final = _BUCKET_AT + 8
_REF_AT: Final = _WIDTH_AT + 4
_SERVER_KEY_AT: Final = _REF_AT + REF_BYTES
_EK_AT: Final = _SERVER_KEY_AT + KEY_HASH_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A descriptor taken apart."""

    mapping_id: MappingId
    generation: int
    bucket: int
    """First bucket of the mapping."""
    width_s: int
    ref: DeviceRef
    server_key_hash: bytes
    """H(vk_S)[:32]."""
    encapsulation_key_hash: bytes
    """H(ek_D)[:32]."""
    ciphertext: bytes

    def body(self) -> bytes:
        """Return `desc`, the 1706 bytes that are signed and hashed."""
        return b"".join(
            (
                _HEAD,
                self.mapping_id,
                u32(self.generation),
                u64(self.bucket),
                u32(self.width_s),
                self.ref,
                self.server_key_hash,
                self.encapsulation_key_hash,
                self.ciphertext,
            )
        )


def key_hash(key: Readable) -> bytes:
    """Return `H(key)[:32]`, as a descriptor names a key."""
    return transcript(key)[:KEY_HASH_BYTES]


def read_descriptor(encoded: bytes, *, server_key: bytes) -> Descriptor:
    """
    Read a descriptor and verify that the pinned server key made it.

    Args:
        encoded: 4126 bytes.
        server_key: `vk_S`, ML-DSA-44, pinned out of band.

    Raises:
        AuthenticationError: anything about it is wrong.
        LengthError: *server_key* is not 1312 bytes.

    Source: docs/protocol.md, step K1.
    """
    if len(encoded) != MAPPING_BYTES or encoded[:_ID_AT] != _HEAD:
        raise AuthenticationError
    descriptor = Descriptor(
        mapping_id=MappingId(bytes(encoded[_ID_AT:_GENERATION_AT])),
        generation=int.from_bytes(encoded[_GENERATION_AT:_BUCKET_AT], "big"),
        bucket=int.from_bytes(encoded[_BUCKET_AT:_WIDTH_AT], "big"),
        width_s=int.from_bytes(encoded[_WIDTH_AT:_REF_AT], "big"),
        ref=DeviceRef(bytes(encoded[_REF_AT:_SERVER_KEY_AT])),
        server_key_hash=bytes(encoded[_SERVER_KEY_AT:_EK_AT]),
        encapsulation_key_hash=bytes(encoded[_EK_AT:MAPPING_CT_AT]),
        ciphertext=bytes(encoded[MAPPING_CT_AT:MAPPING_BODY_BYTES]),
    )
    is_possible = descriptor.width_s >= 1 and descriptor.generation >= 1
    if not is_possible or descriptor.server_key_hash != key_hash(server_key):
        raise AuthenticationError
    digest = transcript(encoded[:MAPPING_BODY_BYTES])
    SIG44.verify(server_key, digest, encoded[MAPPING_BODY_BYTES:], context=CONTEXT_MAPPING)
    return descriptor
