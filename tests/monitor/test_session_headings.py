"""Headings: whose the sessions of one transaction are, and when they were made, bound to the signed log."""

import asyncio
import secrets
from urllib.parse import urlsplit, urlunsplit

import pytest

from attacks.test_attack_log import unlock
from manager_world import Edge, managers
from qflare.errors import EvidenceError, UsageError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.protocol.log import Frontier
from qflare.protocol.new_event import new_event
from qflare.stores.postgres.columns import as_uuid

OTHER = TenantId(b"\x99" * 16)
EDITS = {
    "tenant_id": "'99999999-9999-9999-9999-999999999999'",
    "recorded_at": "recorded_at + interval '1 microsecond'",
}


async def fill(manager):
    """Sessions in three runs at least, the last of several."""
    edges = [await Edge.provision(manager) for _ in range(4)]
    await edges[0].connect(manager)
    await edges[1].connect(manager)
    await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": 1})
    await asyncio.gather(*(edge.connect(manager) for edge in edges))
    await manager.monitor.checkpoint()


async def places(admin):
    rows = await admin.fetch("SELECT log_index, entry_type, event_type FROM qflare.audit_entry ORDER BY log_index")
    sessions = [row["log_index"] for row in rows if row["entry_type"] == 1]
    headings = [row["log_index"] for row in rows if row["event_type"] == "session_heading"]
    return sessions, headings


async def test_every_sessions_row_is_bound_wherever_it_stands_in_its_run(database_dsn, tmp_path, admin):
    """First, middle or last of a run: an edit of tenant or time is found at it, by the whole check and by a proof."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        sessions, headings = await places(admin)
        assert (6, True) == (len(sessions), len(headings) >= 3)
        await unlock(admin)
        for index in sessions:
            await manager.monitor.verify_event_integrity(index)
            for column, value in EDITS.items():
                before = await admin.fetchval(f"SELECT {column} FROM qflare.audit_entry WHERE log_index = $1", index)  # noqa: S608
                await admin.execute(f"UPDATE qflare.audit_entry SET {column} = {value} WHERE log_index = $1", index)  # noqa: S608
                for is_deep in (True, False):
                    with pytest.raises(EvidenceError) as caught:
                        await manager.monitor.verify_log(deep=is_deep)
                    assert (index, index) == (caught.value.index, caught.value.last)
                if column == "recorded_at":
                    with pytest.raises(EvidenceError) as caught:
                        await manager.monitor.verify_event_integrity(index)
                    assert index == caught.value.index
                await admin.execute(
                    f"UPDATE qflare.audit_entry SET {column} = $2 WHERE log_index = $1",  # noqa: S608
                    index,
                    before,
                )
        await manager.monitor.verify_log()


async def test_a_session_moved_to_another_tenant_is_not_proven_there(database_dsn, tmp_path, admin):
    """The heading before it is of its own tenant, and says so also where the other tenant asks, which does not see it."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        await manager.create_tenant("other", tenant_id=OTHER)
        sessions, _ = await places(admin)
        await unlock(admin)
        other = manager.for_tenant(OTHER)
        for index in sessions:
            await admin.execute(
                "UPDATE qflare.audit_entry SET tenant_id = $2 WHERE log_index = $1", index, as_uuid(OTHER)
            )
            with pytest.raises(EvidenceError, match="tenant") as caught:
                await other.monitor.verify_event_integrity(index)
            assert index == caught.value.index
            await admin.execute(
                "UPDATE qflare.audit_entry SET tenant_id = $2 WHERE log_index = $1", index, as_uuid(DEFAULT_TENANT)
            )


async def test_where_headings_begin_is_compared_with_where_they_do(database_dsn, tmp_path, admin):
    """Who puts the beginning later, so that nothing has to be headed before it, is found."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await manager.monitor.verify_log()
        await fill(manager)
        _, headings = await places(admin)
        assert headings[0] == await admin.fetchval("SELECT headed_from FROM qflare.log_head")
        for other in ("NULL", "headed_from + 1", "0"):
            await admin.execute(f"UPDATE qflare.log_head SET headed_from = {other}")  # noqa: S608
            with pytest.raises(EvidenceError, match="heading"):
                await manager.monitor.verify_log()
            await admin.execute("UPDATE qflare.log_head SET headed_from = $1", headings[0])
        await manager.monitor.verify_log()


async def test_no_caller_writes_a_heading(database_dsn, tmp_path):
    """An event of that type is refused, so that no session stands under a caller's word."""
    async with managers(database_dsn, tmp_path) as (manager,):
        with pytest.raises(UsageError, match="session_heading"):
            await manager.monitor.log_security_event(SecurityEventType.SESSION_HEADING, EventSeverity.INFO, {})


async def replace_heading(admin, index, vault):
    """Write another event in a heading's place, with the tree above it made anew: as who logs sessions without one."""
    made = new_event(
        SecurityEventType.SYSTEM,
        EventSeverity.INFO,
        {"n": 0},
        tenant_id=DEFAULT_TENANT,
        occurred_at_ms=1000,
        vault=vault,
    )
    await admin.execute(
        "UPDATE qflare.audit_entry SET event_type = 'system', leaf_data = $2, leaf_hash = $3, data = $4, "
        "recorded_at = to_timestamp(1) WHERE log_index = $1",
        index,
        made.leaf_data,
        made.leaf_hash,
        made.stored,
    )
    rows = await admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index")
    frontier, nodes = Frontier().append([row["leaf_hash"] for row in rows])
    await admin.execute("DELETE FROM qflare.log_node")
    await admin.executemany("INSERT INTO qflare.log_node VALUES ($1, $2, $3)", [node for node in nodes if node[0]])
    await admin.execute("DELETE FROM qflare.checkpoint")
    await admin.execute("UPDATE qflare.log_head SET frontier = $1", b"".join(frontier.hashes))


async def test_sessions_of_before_hold_and_later_ones_need_a_heading(database_dsn, tmp_path, admin):
    """Sessions before the first heading hold as they did; after it none stands without one."""
    async with managers(database_dsn, tmp_path) as (manager,):
        await fill(manager)
        foundation = manager._opening.value.foundation
        sessions, headings = await places(admin)
        await unlock(admin)
        await replace_heading(admin, headings[0], foundation.entry_keys)
        await admin.execute("UPDATE qflare.log_head SET headed_from = $1", headings[1])
        report = await manager.monitor.verify_log()
        assert (len(sessions), len(headings) - 1) == (
            report.entries["key_exchange"],
            report.entries["session_heading"],
        )
        assert (
            SecurityEventType.SYSTEM is (await foundation.store.find_run(DEFAULT_TENANT, sessions[0])).head.event_type
        )
        await replace_heading(admin, headings[-1], foundation.entry_keys)
        first = min(index for index in sessions if index > headings[-1])
        with pytest.raises(EvidenceError, match="no heading") as caught:
            await manager.monitor.verify_log()
        assert first == caught.value.index


async def test_a_worker_that_is_no_auditor_proves_sessions_too(database_dsn, tmp_path, admin):
    """A login of qflare_app alone reads its tenant's rows: a session under its heading needs no more."""
    name = f"worker_{secrets.token_hex(4)}"
    await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p' IN ROLE qflare_app")
    parts = urlsplit(database_dsn)
    dsn = urlunsplit(parts._replace(netloc=f"{name}:p@{parts.netloc.rpartition('@')[2]}"))
    try:
        async with managers(dsn, tmp_path) as (manager,):
            await fill(manager)
            sessions, _ = await places(admin)
            for index in sessions:
                assert index == (await manager.monitor.verify_event_integrity(index)).index
            await unlock(admin)
            for index in sessions:
                await admin.execute(
                    "UPDATE qflare.audit_entry SET recorded_at = recorded_at + interval '1 second' WHERE log_index = $1",
                    index,
                )
                with pytest.raises(EvidenceError) as caught:
                    await manager.monitor.verify_event_integrity(index)
                assert index == caught.value.index
    finally:
        await admin.execute(f"DROP ROLE {name}")
