"""
Signing keys of the server as they are made and stored.

What is stored is the seed, or the whole key where liboqs makes none from a seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from qflare.errors import AuthenticationError, KeeperError
from qflare.manager.sealing import Place, unseal
from qflare.primitives.random import random_secret
from qflare.primitives.sig import SigKeyPair, SignatureScheme
from qflare.secret import SecretBytes

_HELD: Final = b"\x02held by a signer"


@dataclass(frozen=True, slots=True)
class NewSigner:
    """A fresh signing pair and what is stored of it; wiped at the end of its block."""

    pair: SigKeyPair
    stored: SecretBytes

    @classmethod
    def generate(cls, scheme: SignatureScheme) -> NewSigner:
        """
        Make a pair.

        Raises:
            EntropyError: the random source failed.
        """
        if scheme.has_keys_from_seed():
            seed = random_secret(scheme.SEED_BYTES)
            return cls(scheme.generate_from_seed(seed), seed)
        pair = scheme.generate()
        return cls(pair, SecretBytes.copy_of(pair.signing_key))

    @property
    def signing_key(self) -> SecretBytes:
        """The expanded signing key."""
        return self.pair.signing_key

    @property
    def verification_key(self) -> bytes:
        """The public half."""
        return self.pair.verification_key

    def __enter__(self) -> Self:
        """Lend the pair to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Destroy the signing half at the end of the block."""
        self.pair.signing_key.wipe()
        self.stored.wipe()


def held_elsewhere(public_key: bytes) -> bytes:
    """
    Return what stands in the place of a sealed log key that a signer holds, 49 bytes.

    It begins as no sealed value does, so that whoever knows no signers refuses it.
    """
    return _HELD + hashlib.sha256(public_key).digest()


def is_held_elsewhere(stored: bytes) -> bool:
    """Return whether the place of a sealed log key says that a signer holds it."""
    return stored.startswith(_HELD)


def unseal_key(kek: SecretBytes, sealed: bytes, place: Place) -> SecretBytes:
    """
    Open a stored signing key; the caller wipes it.

    Raises:
        KeeperError: *kek* did not seal it, or the row was altered.
    """
    try:
        return unseal(kek, sealed, place)
    except AuthenticationError:
        raise KeeperError(
            "the keeper's long-term key did not seal this database's identity: start with the keeper folder that "
            "belongs to this database, or restore it from its backup"
        ) from None


def signing_key(scheme: SignatureScheme, stored: SecretBytes, verification_key: bytes) -> SecretBytes:
    """
    Return the expanded signing key of what is stored; the caller wipes it.

    Raises:
        KeeperError: it does not belong to *verification_key*.
    """
    if len(stored) != scheme.SEED_BYTES:
        return SecretBytes.copy_of(stored)
    pair = scheme.generate_from_seed(stored)
    if pair.verification_key != verification_key:
        pair.signing_key.wipe()
        raise KeeperError(
            "a stored signing key does not belong to the certificate beside it: the identity row was altered"
        )
    return pair.signing_key
