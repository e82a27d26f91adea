"""The server's identity in PostgreSQL (PROTOCOL A1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import StoreError
from qflare.model.bucket import SealedIdentity
from qflare.stores.postgres.connections import Connected

if TYPE_CHECKING:
    import asyncpg

    from qflare.model.event import NewEvent


class Identities(Connected):
    """Table server_identity."""

    async def find_identity(self) -> SealedIdentity | None:
        """Return the identity with the highest serial, or None in an empty database."""
        row = await self._connections.fetch_row("find_identity")
        return None if row is None else _identity(row)

    async def save_identity(self, identity: SealedIdentity, *, event: NewEvent) -> SealedIdentity:
        """Insert *identity* if its serial is new and return the row that stands; the event only if it was new."""
        async with self._connections.transaction() as transaction:
            inserted = await transaction.fetch_row(
                "insert_identity",
                identity.serial,
                identity.server_id,
                identity.root_key,
                identity.certificate,
                identity.sealed_root,
                identity.sealed_announce,
                identity.sealed_log,
            )
            if inserted is not None:
                await transaction.write_events([event])
            row = await transaction.fetch_row("get_identity", identity.serial)
        if row is None:
            raise StoreError("the identity that was just saved is gone; another process deletes rows of this database")
        return _identity(row)


def _identity(row: asyncpg.Record) -> SealedIdentity:
    return SealedIdentity(
        server_id=row["server_id"],
        root_key=row["root_key"],
        certificate=row["certificate"],
        serial=row["serial"],
        sealed_root=row["sealed_root"],
        sealed_announce=row["sealed_announce"],
        sealed_log=row["sealed_log"],
    )
