"""The keys that sign a mapper's descriptors (PROTOCOL K1): each once, under its public half."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import UsageError
from qflare.manager.key_mapping import ServerKeypair
from qflare.protocol.mapping import MappingSigner
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Iterable, ValuesView


class MappingSigners:
    """Owns signing keys and wipes them in the end."""

    def __init__(self) -> None:
        """Hold none."""
        self._held: dict[bytes, MappingSigner] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._held)

    def __getitem__(self, verification_key: bytes) -> MappingSigner:
        """Return the signer of a public half that is held."""
        return self._held[verification_key]

    def values(self) -> ValuesView[MappingSigner]:
        """Return every signer; they stay owned here."""
        return self._held.values()

    def find(self, key: ServerKeypair | SecretBytes | bytes) -> MappingSigner:
        """
        Return the signer of a pair or of its private half; one that is new is kept.

        Raises:
            UsageError: the key cannot sign.
        """
        if isinstance(key, ServerKeypair):
            return self.adopt(MappingSigner.restore(key.private_key, verification_key=key.public_key))
        if not isinstance(key, SecretBytes | bytes | bytearray | memoryview):
            raise UsageError("server_private_key is what generate_server_keypair() returned, or its private half")
        secret = key if isinstance(key, SecretBytes) else SecretBytes.copy_of(key)
        for signer in self._held.values():
            # CT: private keys are compared; only their length shows in the time.
            if signer.signing_key.equals(secret):
                return signer
        return self.adopt(MappingSigner.restore(secret))

    def adopt(self, signer: MappingSigner) -> MappingSigner:
        """Own *signer* and return it, or wipe it and return the one that is held of the same key."""
        known = self._held.setdefault(signer.verification_key, signer)
        if known is not signer:
            signer.wipe()
        return known

    def replace(self, signers: Iterable[MappingSigner]) -> None:
        """Own *signers* in place of those before, of which none may be held."""
        self._held = {signer.verification_key: signer for signer in signers}

    def wipe(self) -> None:
        """Destroy every key."""
        for signer in self._held.values():
            signer.wipe()
        self._held.clear()
