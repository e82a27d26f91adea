"""A restored database: how a copy is told, and the end of what it must not bring back."""

from __future__ import annotations

from typing import Final

from qflare.errors import SchemaMismatchError
from qflare.model.mark import Pulse
from qflare.stores.postgres.connections import Connected

_EVERY_BUCKET: Final = 2**62
"""Above any bucket."""


class Restores(Connected):
    """What crosses the tables when a copy is accepted."""

    async def pulse(self) -> int:
        """Return how often `raise_pulse` was called in this database's life: less in a restored copy."""
        pulse: int = (await self._connections.get_row("store_pulse"))["pulse"]
        return pulse

    async def raise_pulse(self) -> Pulse:
        """Count on, and return the new count with the life of the database in which it is."""
        async with self._connections.transaction() as transaction:
            row = await transaction.fetch_row("raise_pulse")
        if row is None:
            raise SchemaMismatchError("the row of store_pulse is missing; run database/schema.sql again")
        return Pulse(count=row["pulse"], life=row["life"].bytes)

    async def begin_anew(self, *, bucket: int) -> int:
        """
        End what a restored copy must not bring back, and return how many sessions were live.

        One transaction, with the locks in their order; each tenant's part inside that tenant.
        """
        ended = 0
        async with self._connections.transaction() as transaction:
            await transaction.execute("raise_bucket_mark", bucket)
            await transaction.execute("delete_buckets", _EVERY_BUCKET)
            await transaction.execute("empty_slots")
            # Now: buckets that go say why by themselves.
            await transaction.execute("set_reason", "the database was restored")
            for row in await transaction.fetch("list_tenant_ids"):
                tenant_id = row["tenant_id"]
                await transaction.execute("enter", tenant_id)
                live = await transaction.fetch_row("end_live_sessions", tenant_id)
                ended += 0 if live is None else live["sessions"]
                for name in ("expire_tokens", "delete_reply_keys_of_tenant", "clear_session_counts"):
                    await transaction.execute(name, tenant_id)
            # Not only old news: they carry transaction ids of the cluster that the copy is from, and in one that has
            # not come so far every look would find them new.
            await transaction.execute("drop_all_changes")
            await transaction.execute("begin_life")
        return ended
