"""With the log unable to take or sign entries nothing is answered, in bounded time, and the figures say why (D2)."""

import asyncio
import contextlib
from contextlib import asynccontextmanager

import pytest

from given_time import GivenTime
from manager_world import Edge, managers
from qflare.errors import QflareError, StoreError
from qflare.model.event import EventSeverity, SecurityEventType

SYSTEM, INFO = SecurityEventType.SYSTEM, EventSeverity.INFO
CALLERS = 16
BOUND_S = 30
"""Far above the store's timeout of 2 s for each of the steps one behind the other, on a slow machine."""


@asynccontextmanager
async def full(admin, _manager):
    await admin.execute("ALTER TABLE qflare.audit_entry ADD CONSTRAINT audit_entry_full CHECK (false) NOT VALID")
    try:
        yield "append"
    finally:
        await admin.execute("ALTER TABLE qflare.audit_entry DROP CONSTRAINT audit_entry_full")


@asynccontextmanager
async def locked(admin, _manager):
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM qflare.log_head FOR UPDATE")
        yield "append"


@asynccontextmanager
async def read_only(admin, manager):
    name = await admin.fetchval("SELECT current_database()")
    pool = (await manager._engine()).foundation.store._pool
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await pool.expire_connections()
    try:
        yield "append"
    finally:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
        await pool.expire_connections()


@pytest.mark.parametrize("trouble", [full, locked, read_only])
async def test_nothing_is_answered_and_the_reason_is_counted(database_dsn, tmp_path, admin, trouble):
    """Events, sessions, enrolment and revocations of many callers: errors alone, soon; afterwards everything goes on."""
    async with managers(database_dsn, tmp_path, store_timeout_s=2.0) as (manager,):
        log = (await manager._engine()).foundation.log
        edges = [await Edge.provision(manager) for _ in range(4)]
        pending = [await edge.hello(manager) for edge in edges]
        before = (await manager.get_key_statistics(), (await manager.monitor.checkpoint()).size)
        counted = sum(log.failures.counts.values())
        async with trouble(admin, manager) as step:
            given = GivenTime()
            ended = await asyncio.gather(
                *(manager.monitor.log_security_event(SYSTEM, INFO, {"n": number}) for number in range(CALLERS)),
                *(manager.confirm(each.message) for each in pending),
                manager.issue_enrolment_token("somebody"),
                manager.generate_device_keypair("somebody"),
                manager.revoke_device(edges[0].name, reason="cannot be logged"),
                return_exceptions=True,
            )
            assert given.is_within(BOUND_S)
            assert not [each for each in ended if not isinstance(each, StoreError)], ended
            counts = {key: count for key, count in log.failures.counts.items() if key[0] == step}
            # One for each batch of events that failed, no more: they were gathered into few.
            assert 1 <= sum(counts.values()) - counted <= 3
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(QflareError):
                    await manager.monitor.log_security_event(SYSTEM, INFO, {"after": 1})
                    break
                await asyncio.sleep(0.05)
        assert before[0].sessions_live == (await manager.get_key_statistics()).sessions_live
        for edge, each in zip(edges, pending, strict=True):
            edge.accept(each, (await manager.confirm(each.message)).confirmation)
        report = await manager.monitor.verify_log()
        # What stands beside before: the event after, and the four sessions.
        assert before[1] + 5 <= report.size
        assert 4 == report.entries["key_exchange"]
