"""
Keys of log entries about a device: one for each entry, listed under its subject, so that erasing is destroying them.

An entry's key is fresh and rests in the database sealed under a key derived from KEK_L; whoever has the rows, a copy of
them or an archive, but not the keeper, opens nothing.  The subject is a keyed hash of the device's name: the list of
keys names nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, KeeperError
from qflare.manager.sealing import ENTRY_KEY_COLUMN, KEY_BYTES, Place, encode_place, seal, seal_encoded, unseal
from qflare.model.event import SealedKey
from qflare.primitives import aead, kdf
from qflare.primitives.columns import shared
from qflare.primitives.random import random_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.ids import DeviceId, TenantId
    from qflare.model.keeper_ports import Keeper
    from qflare.secret import SecretBytes

SUBJECT_BYTES: Final = 32
_WRAPPING_LABEL: Final = "rest entry keys"
_SUBJECT_LABEL: Final = "rest entry subjects"
_VERSION: Final = 1
_MAGIC: Final = b"QFLARE-ENTRY\x01"


class EntryKeys:
    """Seals and opens what tells of a device in the log; one for a worker."""

    def __init__(self, kek: SecretBytes) -> None:
        """Derive what wraps the keys, and what names their subjects, from *kek*, KEK_L, which the caller keeps."""
        self._wrapping = kdf.expand(kek, _WRAPPING_LABEL, b"", KEY_BYTES)
        self._subjects = kdf.expand(kek, _SUBJECT_LABEL, b"", KEY_BYTES)

    @classmethod
    def of(cls, keeper: Keeper) -> EntryKeys:
        """Derive them from *keeper*'s long-term key; blocking."""
        with keeper.long_term_key() as kek:
            return cls(kek)

    def subject(self, tenant_id: TenantId, device_id: DeviceId) -> bytes:
        """Return under which name the keys of a device's entries are listed: 32 bytes."""
        with kdf.expand(self._subjects, _SUBJECT_LABEL, tenant_id + device_id.encode(), SUBJECT_BYTES) as derived:
            # SAFETY: a pseudonym, not a key: it stands in the database.
            return bytes(derived.view())

    def seal_many(
        self, tenant_id: TenantId, device_ids: Sequence[DeviceId], openings: Sequence[bytes | bytearray]
    ) -> list[tuple[bytes, SealedKey]]:
        """
        Seal each opening under a fresh key, and that key for its subject.

        Raises:
            BatchError: there is not one opening for each device.
            EntropyError: the random source failed.
        """
        if len(device_ids) == len(openings) == 1:
            # Of one, what a batch takes to be laid out costs more than the sealing.
            return [self._seal(tenant_id, device_ids[0], openings[0])]
        known = {device_id: self.subject(tenant_id, device_id) for device_id in set(device_ids)}
        subjects = [known[device_id] for device_id in device_ids]
        with random_secret(KEY_BYTES * len(subjects)) as keys:
            # A key seals this one value: nonce 0.  The leaf binds the sealed bytes to their place in the log.
            boxes = aead.seal_many(keys, aead.NONCE_ZERO, openings, shared(_MAGIC + tenant_id))
            places = [encode_place(ENTRY_KEY_COLUMN, subject, _VERSION, tenant_id) for subject in subjects]
            wrapped = seal_encoded(self._wrapping, keys, KEY_BYTES, places)
        return [(box, SealedKey(subject, key)) for box, subject, key in zip(boxes, subjects, wrapped, strict=True)]

    def _seal(self, tenant_id: TenantId, device_id: DeviceId, opening: bytes | bytearray) -> tuple[bytes, SealedKey]:
        subject = self.subject(tenant_id, device_id)
        with random_secret(KEY_BYTES) as key:
            sealed = aead.seal(key, aead.NONCE_ZERO, opening, _MAGIC + tenant_id)
            wrapped = seal(self._wrapping, key, _place(tenant_id, subject))
        return sealed, SealedKey(subject, wrapped)

    def open(self, tenant_id: TenantId, sealed: bytes, key: SealedKey) -> bytes:
        """
        Open what `seal` made.

        Raises:
            AuthenticationError: it, its key or its tenant was altered, or another keeper's key sealed it.
        """
        try:
            opened = unseal(self._wrapping, key.sealed, _place(tenant_id, key.subject))
        except KeeperError:
            # A format that nobody wrote is an altered row here: nothing newer seals these keys.
            raise AuthenticationError from None
        with opened as plain_key, aead.open(plain_key, aead.NONCE_ZERO, sealed, _MAGIC + tenant_id) as opening:
            return bytes(opening.view())

    def wipe(self) -> None:
        """Destroy this worker's copies."""
        self._wrapping.wipe()
        self._subjects.wipe()


def _place(tenant_id: TenantId, subject: bytes) -> Place:
    return Place(ENTRY_KEY_COLUMN, subject, _VERSION, tenant_id)
