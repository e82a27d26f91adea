"""Somebody who writes into the database but holds no log key: a running worker signs no history of theirs."""

import asyncio
from hashlib import sha256

import pytest

from attacks.test_attack_log import unlock
from manager_world import managers
from qflare.errors import EvidenceError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.protocol.log import Frontier

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO


async def rewrite(admin, leaf_hashes):
    """Make rows, nodes and head those of a tree of these leaves; what rows say is of no matter to who signs."""
    frontier, made = Frontier().append(leaf_hashes)
    async with admin.transaction():
        await admin.execute("DELETE FROM qflare.audit_entry WHERE log_index >= $1", len(leaf_hashes))
        await admin.executemany(
            "UPDATE qflare.audit_entry SET leaf_hash = $2 WHERE log_index = $1", list(enumerate(leaf_hashes))
        )
        await admin.execute("DELETE FROM qflare.log_node")
        await admin.executemany("INSERT INTO qflare.log_node VALUES ($1, $2, $3)", [one for one in made if one[0]])
        await admin.execute(
            "UPDATE qflare.log_head SET size = $1, frontier = $2", frontier.size, b"".join(frontier.hashes)
        )


async def test_a_worker_signs_only_what_goes_on_from_its_last_head(database_dsn, tmp_path, admin):
    """Rewritten, rewritten and grown, or cut: neither events nor a checkpoint are signed, and put back all goes on."""
    async with managers(database_dsn, tmp_path) as (manager,):
        monitor = manager.monitor
        for number in range(7):
            await monitor.log_security_event(SYSTEM, INFO, {"n": number})
        signed = await monitor.checkpoint()
        await unlock(admin)
        rows = await admin.fetch("SELECT leaf_hash FROM qflare.audit_entry ORDER BY log_index")
        whole = [row["leaf_hash"] for row in rows]
        assert signed.size == len(whole)
        other = [*whole[:3], sha256(b"another").digest(), *whole[4:]]

        for leaves in (other, [*other, *other[:2]], whole[:-1], other[:-2]):
            await rewrite(admin, leaves)
            # Of the same size too: the head that was signed before is of another log.
            with pytest.raises(EvidenceError, match="rewritten"):
                await monitor.checkpoint()
            # Each of them is appended, and stands behind the one before: the second is no better than the first.
            for number in range(3):
                with pytest.raises(EvidenceError, match="rewritten"):
                    await monitor.log_security_event(SYSTEM, INFO, {"n": number, "what": "behind another history"})
            with pytest.raises(EvidenceError, match="rewritten"):
                await monitor.checkpoint()
        await admin.execute("UPDATE qflare.log_head SET size = size + 5")
        with pytest.raises(EvidenceError, match="altered"):
            await monitor.checkpoint()
        heads = await admin.fetch("SELECT size, root FROM qflare.checkpoint ORDER BY size")
        assert (signed.size, signed.root) == tuple(heads[-1])
        await admin.execute("DELETE FROM qflare.audit_entry WHERE log_index >= $1", len(whole))
        await rewrite(admin, whole)
        logged = await monitor.log_security_event(SYSTEM, INFO, {"n": 8})
        assert len(whole) == logged.index
        assert len(whole) + 1 == (await monitor.checkpoint()).size


async def test_what_several_workers_append_at_once_goes_on(database_dsn, tmp_path, admin):
    """Three workers whose batches overlap: no head is taken for a rewritten one, whoever signed the one before."""
    async with managers(database_dsn, tmp_path, count=3) as workers:

        async def append(manager, number):
            events = [(SYSTEM, INFO, {"n": number, "of": place}, None) for place in range(300)]
            return await manager.monitor.log_security_events_many(events)

        calls = [append(manager, number) for number in range(4) for manager in workers]
        for results in await asyncio.gather(*calls):
            assert [type(each).__name__ for each in results] == ["LoggedEvent"] * 300
        size = await admin.fetchval("SELECT size FROM qflare.log_head")
        assert [size] * 3 == [(await manager.monitor.checkpoint()).size for manager in workers]
