"""NIST's AES-256-CTR-DRBG without derivation function (SP 800-90A), as the KAT programs use it."""

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB


class NistDrbg:
    """The generator, seeded once with 48 bytes."""

    def __init__(self, seed: bytes) -> None:
        self._key, self._counter = bytes(32), 0
        self._update(seed)

    def draw(self, size: int) -> bytes:
        """Return *size* bytes; each call moves the state on, so two draws are not one longer draw."""
        out = self._blocks(-(-size // 16))[:size]
        self._update(bytes(48))
        return out

    def _blocks(self, count: int) -> bytes:
        # One call for all counters; they wrap at 2^128.
        first = self._counter + 1
        self._counter += count
        counters = b"".join((value % 2**128).to_bytes(16, "big") for value in range(first, first + count))
        encryptor = Cipher(AES256(self._key), ECB()).encryptor()  # noqa: S305  # the generator is built of it
        return encryptor.update(counters)

    def _update(self, provided: bytes) -> None:
        fresh = bytes(a ^ b for a, b in zip(self._blocks(3), provided, strict=True))
        self._key, self._counter = fresh[:32], int.from_bytes(fresh[32:], "big")
