"""What the erasure of a subject's log entries asks of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.model.event import NewEvent, SealedKey
    from qflare.model.ids import DeviceId, TenantId


class ErasureStore(Protocol):
    """Keys of sealed entries by their subject, which a keyed hash names (docs/audit.md)."""

    async def find_subject_entries(self, tenant_id: TenantId, subject: bytes, *, limit: int) -> tuple[int, ...]:
        """Return the first *limit* indexes of a subject's entries that can still be opened."""

    async def find_entry_keys(self, tenant_id: TenantId, indexes: Sequence[int]) -> dict[int, SealedKey]:
        """Return the keys of sealed entries by index, of those alone that can still be opened."""

    async def count_named_entries(self, tenant_id: TenantId, device_id: DeviceId) -> int:
        """Return how many entries of type 2 name a device in their leaves: these nothing erases."""

    async def count_mentions(self, tenant_id: TenantId, device_id: DeviceId) -> int:
        """Return how many incidents and responses name a device, as the one they are about or in their text."""

    async def erase_mentions(self, tenant_id: TenantId, device_id: DeviceId, *, alias: str, event: NewEvent) -> int:
        """
        Put *alias* where incidents and responses name a device, and take out what was said about it there.

        Returns how many it was; *event* is written if there were any, in the same transaction.
        """

    async def erase_entries(
        self, tenant_id: TenantId, subject: bytes, indexes: Sequence[int], *, event: NewEvent
    ) -> None:
        """Destroy the keys of a subject's entries with *event* in one transaction; `ConflictError` if one is gone."""
