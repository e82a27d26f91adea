"""Section N: integers, H, Extract, Expand, AEAD, KEM and SIG as docs/protocol.md writes them."""

from __future__ import annotations

import hashlib
import secrets

from Crypto.Hash import KMAC256
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA44PrivateKey,
    MLDSA44PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM1024PrivateKey, MLKEM1024PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = 1
SUITE = 0x0001
EK, CT, SS = 1568, 1568, 32
VK44, SIG44, VK87, SIG87 = 1312, 2420, 2592, 4627
TAG = 16
NO_PSK = bytes(64)
LIFETIME_MAX = 288
ZERO_NONCE = bytes(12)


class Refused(Exception):  # noqa: N818 (the protocol calls it a refusal, N5)
    """Something in a message broke a rule; the text is for the test that reads it, never for the wire."""


def require(is_met: bool, reason: str) -> None:  # noqa: FBT001 (reads as a claim)
    """Refuse, with *reason*, unless the rule is met."""
    if not is_met:
        raise Refused(reason)


def u8(value: int) -> bytes:
    """One byte."""
    return value.to_bytes(1, "big")


def u16(value: int) -> bytes:
    """Two bytes, big-endian."""
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    """Four bytes, big-endian."""
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    """Eight bytes, big-endian."""
    return value.to_bytes(8, "big")


class Reader:
    """Takes fields off the front of a byte string."""

    def __init__(self, data: bytes) -> None:
        self.rest = bytes(data)

    def take(self, size: int) -> bytes:
        """The next *size* bytes."""
        require(len(self.rest) >= size, "too short")
        field, self.rest = self.rest[:size], self.rest[size:]
        return field

    def integer(self, size: int) -> int:
        """The next *size* bytes as an unsigned big-endian integer."""
        return int.from_bytes(self.take(size), "big")

    def end(self) -> None:
        """Nothing may be left."""
        require(not self.rest, "trailing bytes")


def message(data: bytes, *, kind: int, size: int) -> Reader:
    """Check length, type and version (N3); the reader stands after them."""
    require(len(data) == size, "length")
    reader = Reader(data)
    require(reader.integer(1) == kind, "type")
    require(reader.integer(1) == VERSION, "version")
    return reader


def h(*parts: bytes | str) -> bytes:
    """The function H of N1: SHA3-512, each part preceded by its length as u32."""
    state = hashlib.sha3_512()
    for part in parts:
        data = part.encode("ascii") if isinstance(part, str) else part
        state.update(u32(len(data)) + data)
    return state.digest()


def _kmac(key: bytes, data: bytes, size: int, custom: bytes) -> bytes:
    return KMAC256.new(key=key, data=data, mac_len=size, custom=custom).digest()


def extract(salt: bytes, ikm: bytes) -> bytes:
    """Extract, N1."""
    return _kmac(salt, ikm, 64, b"QFX1 extract")


def expand(key: bytes, label: str, ctx: bytes, size: int) -> bytes:
    """Expand of N1."""
    return _kmac(key, ctx, size, b"QFX1 " + label.encode("ascii"))


def seal(key: bytes, plaintext: bytes, aad: bytes, nonce: bytes = ZERO_NONCE) -> bytes:
    """AES-256-GCM, tag at the end."""
    return AESGCM(key).encrypt(nonce, plaintext, aad)


def unseal(key: bytes, sealed: bytes, aad: bytes, nonce: bytes = ZERO_NONCE) -> bytes:
    """Open what seal made, or refuse."""
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:
        raise Refused("AEAD tag") from None


def encaps(ek: bytes) -> tuple[bytes, bytes]:
    """(ct, ss) under an ML-KEM-1024 key, after the check of FIPS 203, section 7.2."""
    try:
        ss, ct = MLKEM1024PublicKey.from_public_bytes(ek).encapsulate()
    except ValueError:
        raise Refused("ML-KEM-1024 encapsulation key") from None
    return ct, ss


def check_ek(ek: bytes) -> None:
    """The check of FIPS 203, section 7.2."""
    encaps(ek)


class KemKey:
    """An ML-KEM-1024 private key, from its seed d ‖ z (64 bytes)."""

    def __init__(self, seed: bytes | None = None) -> None:
        self.seed = secrets.token_bytes(64) if seed is None else seed
        self._key = MLKEM1024PrivateKey.from_seed_bytes(self.seed)
        self.ek = self._key.public_key().public_bytes_raw()

    def decaps(self, ct: bytes) -> bytes:
        """Always a secret: a wrong ciphertext gives another one."""
        return self._key.decapsulate(ct)


class SigKey:
    """An ML-DSA private key, from its seed (32 bytes)."""

    def __init__(self, seed: bytes | None = None, *, is_root: bool = False) -> None:
        self.seed = secrets.token_bytes(32) if seed is None else seed
        kind = MLDSA87PrivateKey if is_root else MLDSA44PrivateKey
        self._key = kind.from_seed_bytes(self.seed)
        self.vk = self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes, ctx: str) -> bytes:
        """Pure ML-DSA over *data*."""
        return self._key.sign(data, ctx.encode("ascii"))


def verify(vk: bytes, data: bytes, signature: bytes, ctx: str, *, is_root: bool = False) -> None:
    """Verify an ML-DSA-44 (root: ML-DSA-87) signature, or refuse."""
    kind = MLDSA87PublicKey if is_root else MLDSA44PublicKey
    try:
        kind.from_public_bytes(vk).verify(signature, data, ctx.encode("ascii"))
    except (InvalidSignature, ValueError):
        raise Refused("signature " + (ctx or "receipt")) from None


def server_id_of(root_vk: bytes) -> bytes:
    """A1."""
    return h("server", root_vk)[:32]


def ref_of(tenant_id: bytes, device_id: str) -> bytes:
    """H2."""
    return h("device", tenant_id, device_id.encode("utf-8"))[:32]


REFUSAL = u8(0x7F) + u8(VERSION) + bytes(14)
