"""Whoever can write the database changes headings and what stands around them: found, at the first bad index."""

import asyncio

import pytest

from attacks.test_attack_log import unlock
from manager_world import Edge, TurnedClock, managers
from qflare.errors import EvidenceError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT, TenantId
from qflare.monitor.audit_state import AuditState
from qflare.protocol.heading import session_heading
from qflare.protocol.log import Frontier
from qflare.secret import SecretBytes
from qflare.stores.postgres.columns import as_uuid

OTHER = TenantId(b"\x99" * 16)
LATER = "recorded_at + interval '1 hour'"


async def fill(manager, sessions=6):
    """Sessions, each under a heading of its own, and events between some of them."""
    for number in range(sessions):
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        if number % 2:
            await manager.monitor.log_security_event(SecurityEventType.SYSTEM, EventSeverity.INFO, {"n": number})
    await manager.monitor.checkpoint()


async def sessions_of(admin):
    return [
        row["log_index"]
        for row in await admin.fetch("SELECT log_index FROM qflare.audit_entry WHERE entry_type = 1 ORDER BY log_index")
    ]


async def forge_heading(admin, index, *, tenant_id=DEFAULT_TENANT, later_s=3600):
    """Write another heading in the place of one, with its hash, which fits itself in every column."""
    now_s = await admin.fetchval(
        "SELECT extract(epoch FROM recorded_at)::bigint FROM qflare.audit_entry WHERE log_index = $1", index
    )
    made = session_heading(tenant_id, now_s + later_s)
    await admin.execute(
        "UPDATE qflare.audit_entry SET tenant_id = $2, leaf_data = $3, leaf_hash = $4, data = $5, "
        "recorded_at = recorded_at + $6 * interval '1 second' WHERE log_index = $1",
        index,
        as_uuid(tenant_id),
        made.leaf_data,
        made.leaf_hash,
        made.stored,
        later_s,
    )


async def rebuild(admin):
    """Make every node and the head anew over the rows as they are."""
    rows = await admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index")
    frontier, made = Frontier().append([row["leaf_hash"] for row in rows])
    await admin.execute("DELETE FROM qflare.log_node")
    await admin.executemany("INSERT INTO qflare.log_node VALUES ($1, $2, $3)", [one for one in made if one[0]])
    await admin.execute("UPDATE qflare.log_head SET frontier = $1", b"".join(frontier.hashes))


async def keep(admin):
    for table in ("audit_entry", "log_head", "log_node"):
        await admin.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS kept_{table} AS SELECT * FROM qflare.{table}")  # noqa: S608


async def restore(admin):
    async with admin.transaction():
        for table in ("audit_entry", "log_head", "log_node"):
            await admin.execute(f"DELETE FROM qflare.{table}")  # noqa: S608
            await admin.execute(f"INSERT INTO qflare.{table} SELECT * FROM kept_{table}")  # noqa: S608


async def test_no_session_is_proven_under_a_forged_heading(database_dsn, tmp_path, admin):
    """A heading written anew, hash and all, beside a session that fits it: the tree does not have it."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        await fill(manager)
        await manager.create_tenant("other", tenant_id=OTHER)
        await unlock(admin)
        await keep(admin)
        for index in await sessions_of(admin):
            await manager.monitor.verify_event_integrity(index)
            await forge_heading(admin, index - 1)
            await admin.execute(f"UPDATE qflare.audit_entry SET recorded_at = {LATER} WHERE log_index = $1", index)  # noqa: S608
            with pytest.raises(EvidenceError):
                await manager.monitor.verify_event_integrity(index)
            await restore(admin)
            await forge_heading(admin, index - 1, tenant_id=OTHER, later_s=0)
            await admin.execute(
                "UPDATE qflare.audit_entry SET tenant_id = $2 WHERE log_index = $1", index, as_uuid(OTHER)
            )
            with pytest.raises(EvidenceError):
                await manager.for_tenant(OTHER).monitor.verify_event_integrity(index)
            await restore(admin)


async def test_no_session_is_proven_under_the_heading_of_another_run(database_dsn, tmp_path, admin):
    """Rows between that are marked as sessions' are none: what their leaves say is in the tree."""
    clock = TurnedClock()
    async with managers(database_dsn, tmp_path, clock=clock) as (manager,):
        await fill(manager, 2)
        clock.turn(5)
        await fill(manager, 4)
        await unlock(admin)
        await keep(admin)
        one, *_, other = await sessions_of(admin)
        await admin.execute(
            "UPDATE qflare.audit_entry SET entry_type = 1 WHERE log_index > $1 AND log_index < $2", one, other
        )
        await admin.execute(
            "UPDATE qflare.audit_entry SET recorded_at = (SELECT recorded_at FROM qflare.audit_entry "
            "WHERE log_index = $1) WHERE log_index = $2",
            one,
            other,
        )
        with pytest.raises(EvidenceError) as caught:
            await manager.monitor.verify_event_integrity(other)
        assert other - 1 == caught.value.index  # its heading's row


@pytest.mark.parametrize("beginning", ["NULL", "1000000"])
async def test_where_headings_are_said_to_begin_lets_no_session_move(beginning, database_dsn, tmp_path, admin):
    """Moved to another tenant, with the beginning of headings put behind it: its heading is still the one before it."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        await fill(manager)
        await manager.create_tenant("other", tenant_id=OTHER)
        await unlock(admin)
        await keep(admin)
        for index in await sessions_of(admin):
            await admin.execute(f"UPDATE qflare.log_head SET headed_from = {beginning}")  # noqa: S608
            await admin.execute(
                "UPDATE qflare.audit_entry SET tenant_id = $2 WHERE log_index = $1", index, as_uuid(OTHER)
            )
            with pytest.raises(EvidenceError) as caught:
                await manager.for_tenant(OTHER).monitor.verify_event_integrity(index)
            assert index == caught.value.index
            await restore(admin)


async def test_a_heading_written_anew_is_named_and_not_its_session(database_dsn, tmp_path, admin):
    """Of a heading whose hash and whole tree were made anew the range between two heads is named, which has it."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        await fill(manager)
        await unlock(admin)
        await keep(admin)
        for index in await sessions_of(admin):
            await forge_heading(admin, index - 1)
            for makes_tree in (False, True):
                if makes_tree:
                    await rebuild(admin)
                for is_deep in (True, False):
                    with pytest.raises(EvidenceError) as caught:
                        await manager.monitor.verify_log(deep=is_deep)
                    assert caught.value.index <= index - 1 <= caught.value.last, (index, makes_tree, is_deep)
            await restore(admin)


async def test_a_check_that_goes_on_in_the_middle_of_a_run_knows_its_heading(
    database_dsn, tmp_path, admin, monkeypatch
):
    """Interrupted anywhere, also between a heading and its sessions: no honest log is refused, and every edit is found."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        edges = [await Edge.provision(manager) for _ in range(4)]
        await edges[0].connect(manager)
        await asyncio.gather(*(edge.connect(manager) for edge in edges))
        await manager.monitor.checkpoint()
        sessions = await sessions_of(admin)
        await unlock(admin)
        monkeypatch.setattr("qflare.monitor.audit.PAGE", 1)
        states = []
        await manager.monitor.verify_log(deep=False, note_state=states.append)
        assert len(states) == await admin.fetchval("SELECT size FROM qflare.log_head")
        for state in states:
            with SecretBytes(bytearray(32)) as key:
                earlier = AuditState.decode(state.encode(key), key)
            report = await manager.monitor.verify_log(deep=False, resume=earlier)
            assert state.frontier.size == report.resumed_at
            index = next((each for each in sessions if each >= state.frontier.size), None)
            if index is None:
                continue
            await admin.execute(f"UPDATE qflare.audit_entry SET recorded_at = {LATER} WHERE log_index = $1", index)  # noqa: S608
            with pytest.raises(EvidenceError) as caught:
                await manager.monitor.verify_log(deep=False, resume=earlier)
            assert index == caught.value.index
            await admin.execute(
                "UPDATE qflare.audit_entry SET recorded_at = recorded_at - interval '1 hour' WHERE log_index = $1",
                index,
            )


async def test_a_heading_is_shown_and_disclosed_as_any_event(database_dsn, tmp_path, admin):
    """It is an entry of its tenant: proven, and disclosed with its tenant, which its leaf hides."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        await fill(manager, 2)
        for index in await sessions_of(admin):
            proof = await manager.monitor.verify_event_integrity(index - 1)
            assert SecurityEventType.SESSION_HEADING is proof.entry.event_type
            await manager.monitor.disclose_event(index - 1, tenant=True, device=True)
