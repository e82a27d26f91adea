"""
The server's mappings at rest (K3): sealed under a key derived from `server_master_key`, one key for each sealing.

The master key enters nothing that a device must repeat.  Layout: version ‖ salt(32) ‖ AEAD over the terms and the chain
key; the mapping's id and generation are bound, so that a row can be put in no other's place.
"""

from __future__ import annotations

import struct
from typing import Final

from qflare.errors import AuthenticationError, LengthError
from qflare.model.ids import DeviceRef, MappingId
from qflare.primitives.aead import NONCE_ZERO, TAG_BYTES, seal
from qflare.primitives.aead import open as open_sealed
from qflare.primitives.hash import kmac256
from qflare.primitives.random import random_bytes
from qflare.protocol.mapping import Mapping
from qflare.protocol.wire import AEAD_KEY_BYTES, REF_BYTES, SECRET_BYTES, U32_MAX, u32
from qflare.secret import SecretBytes

MASTER_KEY_BYTES_MIN: Final = 32
_VERSION: Final = b"\x01"
_SALT_BYTES: Final = 32
# No label of QFX-1 begins so ("QFX1 "): what rests here is nobody else's affair.
_CUSTOM: Final = b"QFLARE mapping at rest"
_TERMS: Final = struct.Struct(f">QQI{REF_BYTES}s")
_PLAINTEXT_BYTES: Final = _TERMS.size + SECRET_BYTES
SEALED_MAPPING_BYTES: Final = len(_VERSION) + _SALT_BYTES + _PLAINTEXT_BYTES + TAG_BYTES


def seal_mapping(mapping: Mapping, master_key: SecretBytes) -> bytes:
    """
    Seal a mapping's terms and chain key for a database, `SEALED_MAPPING_BYTES` bytes.

    Args:
        mapping: The server's side.
        master_key: `server_master_key`, 32 bytes or more.

    Raises:
        LengthError: the master key is too short.
        EntropyError: the random source failed.
    """
    salt = random_bytes(_SALT_BYTES)
    terms = _TERMS.pack(mapping.first_bucket, mapping.bucket, mapping.width_s, mapping.ref)
    with SecretBytes.zeros(_PLAINTEXT_BYTES) as plaintext, _sealing_key(master_key, salt) as key:
        with plaintext.view() as out, mapping.chain_key.view() as chain_key:
            out[: _TERMS.size] = terms
            out[_TERMS.size :] = chain_key
        return _VERSION + salt + seal(key, NONCE_ZERO, plaintext, _bound(mapping.mapping_id, mapping.generation))


def restore_mapping(sealed: bytes, master_key: SecretBytes, *, mapping_id: MappingId, generation: int) -> Mapping:
    """
    Open what `seal_mapping` made; the caller owns the mapping.

    Raises:
        AuthenticationError: it is not that mapping's, or was sealed under another master key.
        LengthError: the master key is too short.
    """
    if len(sealed) != SEALED_MAPPING_BYTES or sealed[: len(_VERSION)] != _VERSION or not 1 <= generation <= U32_MAX:
        raise AuthenticationError
    salt, body = sealed[len(_VERSION) : len(_VERSION) + _SALT_BYTES], sealed[len(_VERSION) + _SALT_BYTES :]
    with _sealing_key(master_key, salt) as key:
        plaintext = open_sealed(key, NONCE_ZERO, body, _bound(mapping_id, generation))
    with plaintext, plaintext.view() as view:
        first_bucket, bucket, width_s, ref = _TERMS.unpack(view[: _TERMS.size])
        return Mapping(
            SecretBytes.copy_of(view[_TERMS.size :]),
            mapping_id=mapping_id,
            generation=generation,
            first_bucket=first_bucket,
            bucket=bucket,
            width_s=width_s,
            ref=DeviceRef(ref),
        )


def _sealing_key(master_key: SecretBytes, salt: bytes) -> SecretBytes:
    if len(master_key) < MASTER_KEY_BYTES_MIN:
        name, expected = "server_master_key", f"{MASTER_KEY_BYTES_MIN} or more"
        raise LengthError(name, expected=expected, actual=len(master_key))
    return kmac256(master_key, salt, AEAD_KEY_BYTES, _CUSTOM)


def _bound(mapping_id: MappingId, generation: int) -> bytes:
    return _VERSION + mapping_id + u32(generation)
