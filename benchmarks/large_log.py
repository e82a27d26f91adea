"""A log of a wanted size, written straight into the database: entries, nodes and head as appends leave them."""

from __future__ import annotations

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.protocol.leaf import event_leaf
from qflare.protocol.log import frontier_from_nodes, nodes_for_frontier

CHUNK = 250_000
"""Entries in one statement."""
_TIME_MS = 1_700_000_000_000
_DATA = b'{"number":1,"what":"benchmark"}'
_SALT_AT = 10
"""Where an event's leaf of type 2 has its 16 bytes of salt: the one thing in which these entries differ."""

_ENTRIES = """
INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, leaf_hash, leaf_data, data,
                                recorded_at)
SELECT n, $3, 2, 'system', 'info', sha256('\\x00'::bytea || leaf), leaf, $6, to_timestamp($7)
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
 CROSS JOIN LATERAL (SELECT $4::bytea || decode(md5(n::text), 'hex') || $5::bytea AS leaf) AS made
"""
_PAIRS = """
INSERT INTO qflare.log_node (level, node_index, hash, leaf_pair)
SELECT 1, n, sha256('\\x01'::bytea || one.leaf_hash || two.leaf_hash), one.leaf_hash || two.leaf_hash
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
  JOIN qflare.audit_entry AS one ON one.log_index = 2 * n
  JOIN qflare.audit_entry AS two ON two.log_index = 2 * n + 1
ON CONFLICT DO NOTHING
"""
_NODES = """
INSERT INTO qflare.log_node (level, node_index, hash)
SELECT $3, n, sha256('\\x01'::bytea || one.hash || two.hash)
  FROM generate_series($1::bigint, $2::bigint - 1) AS n
  JOIN qflare.log_node AS one ON one.level = $3 - 1 AND one.node_index = 2 * n
  JOIN qflare.log_node AS two ON two.level = $3 - 1 AND two.node_index = 2 * n + 1
ON CONFLICT DO NOTHING
"""


async def grow_log(admin: asyncpg.Connection, size: int) -> None:
    """
    Write entries behind those that stand, until the log has *size*.

    What stands afterwards is what appends would have left, and `qflare audit verify --deep` holds on it.

    Args:
        admin: A superuser's connection; nobody else writes meanwhile.
        size: Entries wanted; a log that has them is left as it is.
    """
    first = await admin.fetchval("SELECT size FROM qflare.log_head")
    if first >= size:
        return
    leaf = event_leaf(
        tenant_id=DEFAULT_TENANT,
        event_type=SecurityEventType.SYSTEM,
        severity=EventSeverity.INFO,
        device_id=None,
        occurred_at_ms=_TIME_MS,
        data=_DATA,
        salt=bytes(16),
    )
    head, rest = leaf[:_SALT_AT], leaf[_SALT_AT + 16 :]
    await admin.execute("SET session_replication_role = replica; SET synchronous_commit = off")
    for at in range(first, size, CHUNK):
        end = min(at + CHUNK, size)
        await admin.execute(_ENTRIES, at, end, UUID(DEFAULT_TENANT), head, rest, _DATA, _TIME_MS / 1000, timeout=600)
    level = 1
    while size >> level:
        for at in range(first >> level, size >> level, CHUNK):
            end = min(at + CHUNK, size >> level)
            if level == 1:
                await admin.execute(_PAIRS, at, end, timeout=600)
            else:
                await admin.execute(_NODES, at, end, level, timeout=600)
        level += 1
    frontier = frontier_from_nodes(size, await _nodes(admin, size))
    await admin.execute("UPDATE qflare.log_head SET size = $1, frontier = $2", size, b"".join(frontier.hashes))
    await admin.execute("RESET session_replication_role; RESET synchronous_commit")
    for table in ("audit_entry", "log_node"):
        await admin.execute(f"VACUUM ANALYZE qflare.{table}", timeout=1800)
    await admin.execute("CHECKPOINT", timeout=1800)


async def _nodes(admin: asyncpg.Connection, size: int) -> dict[tuple[int, int], bytes]:
    found: dict[tuple[int, int], bytes] = {}
    for level, index in nodes_for_frontier(size):
        if level:
            query = "SELECT hash FROM qflare.log_node WHERE level = $1 AND node_index = $2"
            found[level, index] = await admin.fetchval(query, level, index)
        else:
            found[0, index] = await admin.fetchval(
                "SELECT leaf_hash FROM qflare.audit_entry WHERE log_index = $1", index
            )
    return found
