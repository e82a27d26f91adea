"""The audit log as an auditor reads it: one connection whose login need be no more than a member of qflare_auditor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import UsageError
from qflare.model.event import LogHead
from qflare.stores.postgres.columns import as_uuid
from qflare.stores.postgres.definition import queries
from qflare.stores.postgres.failures import translated
from qflare.stores.postgres.log import checkpoint_of, entry_of, head_of
from qflare.stores.postgres.schema import check_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from qflare.model.audit_ports import AuditSource
    from qflare.model.event import AuditEntry, SignedCheckpoint
    from qflare.model.ids import TenantId

_IDENTITIES_MAX: Final = 1000
"""As many as `Identities.list_certificates` reads."""


class AuditLog:
    """
    `model.audit_ports.AuditSource` on one connection, which belongs to the caller; every call is a transaction.

    Its callers ask one after the other: a connection answers one question at a time.
    """

    def __init__(self, connection: asyncpg.Connection, *, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def check(self) -> None:
        """
        Check that the login may audit and that the schema is the one that this code reads.

        Raises:
            StoreError: the login is no member of qflare_auditor.
            SchemaMismatchError: the schema is missing, too old or too new.
        """
        with translated():
            async with self._connection.transaction(readonly=True):
                await self._connection.fetch(queries()["become_auditor"].text, timeout=self._timeout_s)
                await check_schema(self._connection, timeout_s=self._timeout_s)

    async def log_head(self) -> LogHead:
        """
        Return size and frontier as committed.

        Raises:
            EvidenceError: there is no head.
        """
        return head_of(await self._fetch("log_head"))

    async def list_entries(self, tenant_id: TenantId | None, *, first: int, limit: int) -> tuple[AuditEntry, ...]:
        """Return entries from index *first* on; None reads all tenants."""
        if tenant_id is None:
            rows = await self._fetch("list_all_entries", first, limit)
        else:
            rows = await self._fetch("list_entries", as_uuid(tenant_id), first, limit)
        return tuple(entry_of(row) for row in rows)

    async def find_nodes(self, nodes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return hashes of complete subtrees by (level, index); level 0 are the leaves."""
        found: dict[tuple[int, int], bytes] = {}
        leaves = [index for level, index in nodes if level == 0]
        inner = [(level, index) for level, index in nodes if level > 0]
        if leaves:
            rows = await self._fetch("find_leaves_audited", leaves)
            found |= {(0, row["log_index"]): row["leaf_hash"] for row in rows}
        if inner:
            levels, indexes = zip(*inner, strict=True)
            rows = await self._fetch("find_nodes", list(levels), list(indexes))
            found |= {(row["level"], row["node_index"]): row["hash"] for row in rows}
        return found

    async def find_leaf_pairs(self, indexes: Sequence[int]) -> dict[int, bytes]:
        """Return both leaf hashes below nodes of level 1, 64 bytes, as kept with the node; of old ones none are."""
        rows = await self._fetch("find_leaf_pairs", list(indexes)) if indexes else []
        return {row["node_index"]: row["leaf_pair"] for row in rows}

    async def latest_checkpoint(self) -> SignedCheckpoint | None:
        """Return the signed head of the largest size, or None."""
        rows = await self._fetch("latest_checkpoint")
        return checkpoint_of(rows[0]) if rows else None

    async def list_checkpoints(self, *, first: int, limit: int) -> tuple[SignedCheckpoint, ...]:
        """Return signed heads of *first* entries and more, the smallest first."""
        return tuple(checkpoint_of(row) for row in await self._fetch("list_checkpoints", first, limit))

    async def list_archived_leaves(self, *, first: int, limit: int) -> tuple[tuple[int, bytes], ...]:
        """Return index and leaf hash of entries that were archived and dropped, from index *first* on."""
        rows = await self._fetch("list_archived_leaves", first, limit)
        return tuple((row["log_index"], row["leaf_hash"]) for row in rows)

    async def identities(self) -> tuple[bytes, ...]:
        """Return every ``root vk ‖ CERT`` that was in force, the newest first, as the database shows them."""
        rows = await self._fetch("list_identities", _IDENTITIES_MAX)
        return tuple(row["root_key"] + row["certificate"] for row in rows)

    async def _fetch(self, name: str, *arguments: object) -> list[asyncpg.Record]:
        if self._connection.is_closed():
            raise UsageError("the auditor's connection is closed")
        with translated():
            async with self._connection.transaction(readonly=True):
                await self._connection.fetch(queries()["become_auditor"].text, timeout=self._timeout_s)
                return await self._connection.fetch(queries()[name].text, *arguments, timeout=self._timeout_s)


async def drop_archived_entries(
    connection: asyncpg.Connection, before: int, entry: int, *, limit: int, timeout_s: float
) -> int:
    """
    Drop up to *limit* of the oldest entries before an index, whose archive *entry* tells of; return how many went.

    Raises:
        ConflictError: that entry tells of no such archive.
        StoreError: the login may not change the schema.
    """
    with translated():
        row = await connection.fetchrow(
            queries()["drop_archived_entries"].text, before, entry, limit, timeout=timeout_s
        )
    return 0 if row is None else int(row["dropped"])


if TYPE_CHECKING:

    def _fits_the_port(log: AuditLog) -> AuditSource:
        return log
