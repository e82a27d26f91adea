"""
Sealing what rests in the database (PROTOCOL R8): AES-256-GCM under KEK_L or KEK_b.

A sealed value is ``1 ‖ nonce(12) ‖ ciphertext ‖ tag(16)``.  The associated data bind tenant, table and column, row id
and version, so that values swapped between rows or columns by whoever can write the database do not open.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, KeeperError
from qflare.primitives import aead
from qflare.primitives.columns import rows
from qflare.primitives.random import random_bytes
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT: Final = 1
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
OVERHEAD_BYTES: Final = 1 + NONCE_BYTES + aead.TAG_BYTES

CHAIN_COLUMN: Final = b"session_state.sealed_chain_key"
PAGE_COLUMN: Final = b"session_page.sealed_chain_keys"
REPLY_COLUMN: Final = b"reply_key.sealed_reply_key"
BUCKET_DK_COLUMN: Final = b"bucket_key.sealed_dk"
BUCKET_TICKET_COLUMN: Final = b"bucket_key.sealed_ticket_key"
ROOT_COLUMN: Final = b"identity.sealed_root"
ANNOUNCE_COLUMN: Final = b"identity.sealed_announce"
LOG_COLUMN: Final = b"identity.sealed_log"
PSK_COLUMN: Final = b"device.sealed_psk"
ENTRY_KEY_COLUMN: Final = b"audit_key.sealed_key"

_LENGTH: Final = struct.Struct(">H")
_VERSION: Final = struct.Struct(">Q")
_MAGIC: Final = b"QFLARE-REST\x01"
NO_TENANT: Final = bytes(16)
"""Stands in the place of the tenant for rows that belong to the whole cluster."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed value rests; all of it is authenticated with the value."""

    column: bytes
    """``table.column`` in ASCII."""
    row: bytes
    """The row's id, such as a sid or a bucket as u64."""
    version: int
    """What the row's value counts by: bucket, serial, key version."""
    tenant_id: bytes = NO_TENANT

    def encode(self) -> bytes:
        """Return the associated data; every part has a fixed width or its length in front."""
        return encode_place(self.column, self.row, self.version, self.tenant_id)


def encode_place(column: bytes, row: bytes, version: int, tenant_id: bytes) -> bytes:
    """Return the associated data of a `Place` that nobody keeps: of thousands, half the cost is making them."""
    return b"".join(
        (_MAGIC, tenant_id, _LENGTH.pack(len(column)), column, _LENGTH.pack(len(row)), row, _VERSION.pack(version))
    )


def seal(key: SecretBytes, secret: SecretBytes, place: Place) -> bytes:
    """Seal one *secret* for *place* under *key* (32 bytes); the caller keeps both."""
    nonce = random_bytes(NONCE_BYTES)
    with secret.view() as plaintext:
        return bytes((FORMAT,)) + nonce + aead.seal(key, nonce, plaintext, place.encode())


def unseal(key: SecretBytes, sealed: bytes, place: Place) -> SecretBytes:
    """
    Open what `seal` made; the caller owns and wipes the secret.

    Raises:
        AuthenticationError: another key sealed it, or it was altered or moved to this place from another one.
        KeeperError: it was written by a newer format.
    """
    nonce, body = _split(sealed)
    return aead.open(key, nonce, body, place.encode())


def seal_rows(key: SecretBytes, secrets: SecretBytes, size: int, places: Sequence[Place]) -> list[bytes]:
    """Seal row i of *secrets* (*size* bytes each) for ``places[i]``, all under one *key*."""
    return seal_encoded(key, secrets, size, [place.encode() for place in places])


def seal_encoded(key: SecretBytes, secrets: SecretBytes, size: int, places: list[bytes]) -> list[bytes]:
    """Seal as `seal_rows` does, for places as `encode_place` gives them."""
    count = len(places)
    # Random nonces of 96 bits: a KEK_b seals a few million values in its life, far below the 2^32 at which the
    # chance of a repeated nonce reaches 2^-32 (SP 800-38D, section 8.3).
    nonces = random_bytes(NONCE_BYTES * count) if count else b""
    boxes = aead.AeadKey(key).seal_many(count, nonces, rows(secrets, size), places)
    head = bytes((FORMAT,))
    return [
        b"".join((head, nonces[at : at + NONCE_BYTES], box))
        for at, box in zip(range(0, len(nonces), NONCE_BYTES), boxes, strict=True)
    ]


def unseal_rows(key: SecretBytes, sealed: Sequence[bytes], places: Sequence[Place]) -> list[SecretBytes | None]:
    """Open ``sealed[i]`` of ``places[i]``, all under one *key*; None where it does not open."""
    cipher = aead.AeadKey(key)
    opened: list[SecretBytes | None] = []
    for value, place in zip(sealed, places, strict=True):
        nonce, body = _split(value)
        try:
            opened.append(cipher.open(nonce, body, place.encode()))
        except AuthenticationError:
            opened.append(None)
    return opened


def unseal_block(
    key: SecretBytes, sealed: Sequence[bytes], places: Sequence[bytes], size: int
) -> tuple[SecretBytes, list[bool]]:
    """
    Open ``sealed[i]`` of ``places[i]`` into row i of one secret: for thousands of values of one *size*.

    Places are as `encode_place` gives them.

    Returns:
        ``n × size`` bytes, owned by the caller, and which rows opened; the others are zero.
    """
    cipher = aead.AeadKey(key)
    block = SecretBytes.zeros(len(sealed) * size)
    has_opened: list[bool] = []
    with block.view() as rows:
        for at, (value, place) in enumerate(zip(sealed, places, strict=True)):
            nonce, body = _split(value)
            is_good = len(body) == size + aead.TAG_BYTES
            if is_good:
                try:
                    cipher.open_into(nonce, body, place, rows[at * size : (at + 1) * size])
                except AuthenticationError:
                    is_good = False
            has_opened.append(is_good)
    return block, has_opened


def _split(sealed: bytes) -> tuple[bytes, bytes]:
    if len(sealed) < OVERHEAD_BYTES or sealed[0] != FORMAT:
        raise KeeperError("a sealed value has an unknown format: it was written by a newer version, or is damaged")
    return sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
