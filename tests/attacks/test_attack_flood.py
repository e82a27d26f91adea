"""Floods by somebody who has no session: what they cost in memory, in the log, and to honest devices (I1)."""

import asyncio
import ctypes
import gc
import os
from pathlib import Path

from manager_world import Edge, TurnedClock, engine_of, managers, settle
from qflare.errors import RefusedError
from qflare.model.refusal import Refusal
from qflare.protocol.hello_device import start_hello

HELLOS = int(os.environ.get("QFLARE_FLOOD_HELLOS", "3000"))
"""50,000 is the figure of I1; the growth a hello is what is measured, and scaled to that."""
GOAL_HELLOS, GOAL_BYTES = 50_000, 64 * 2**20


def resident():
    """This process's resident bytes, after what can be given back was."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_hellos(edge, announcement, count):
    """M1s as a device makes them; nothing else of them is kept."""
    messages = []
    for _ in range(count):
        pending = start_hello(edge.device, announcement)
        messages.append(pending.message)
        pending.wipe()
    return messages


async def answer_all(manager, hellos):
    accepted = 0
    for start in range(0, len(hellos), 500):
        answers = await manager.answer_hellos_many(hellos[start : start + 500])
        accepted += sum(not isinstance(answer, Exception) for answer in answers)
    return accepted


async def test_half_open_handshakes_take_little_memory_and_stop_nobody(database_dsn, tmp_path):
    """Hellos that are answered and never finished: growth scales to at most 64 MB for 50,000, honest devices get on (I1)."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        attacker = await Edge.provision(manager)
        honest = [await Edge.provision(manager) for _ in range(20)]
        announcement = await attacker.announcement(manager)
        for edge in honest:
            await edge.trust(manager)
        hellos = make_hellos(attacker, announcement, HELLOS + 1000)
        # What every worker needs once (threads' arenas, caches, plans) is no growth.
        assert 1000 == await answer_all(manager, hellos[:1000])
        before = resident()
        flood = asyncio.create_task(answer_all(manager, hellos[1000:]))
        ended = await asyncio.gather(*(edge.connect(manager) for edge in honest), return_exceptions=True)
        assert [] == [end for end in ended if isinstance(end, Exception)]
        assert HELLOS == await flood
        growth = resident() - before
        assert len(engine_of(manager).hellos.seen) >= HELLOS
        # A MiB is what the measurement itself swings by.
        assert (growth - 2**20) * GOAL_HELLOS / HELLOS <= GOAL_BYTES


async def test_forged_hellos_fill_neither_seen_set_nor_log(database_dsn, tmp_path, admin):
    """M1s with a bad tag or signature leave nothing in the seen set, or a bounded number of log entries."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock(), refusal_events_per_minute=5) as (manager,):
        edge = await Edge.provision(manager)
        announcement = await edge.announcement(manager)
        hellos = make_hellos(edge, announcement, 50)
        bad = [message[:-1] + bytes((message[-1] ^ 1,)) for message in hellos] * 4
        before = await admin.fetchval("SELECT size FROM qflare.log_head")
        for answer in await manager.answer_hellos_many(bad):
            assert isinstance(answer, RefusedError)
        assert 0 == len(engine_of(manager).hellos.seen)
        for answer in await manager.answer_hellos_many([hellos[0]] * 60):
            assert isinstance(answer, bytes) or Refusal.SEEN is answer.reason
        await settle(manager)
        assert await admin.fetchval("SELECT size FROM qflare.log_head") - before <= 10
        assert 200 == manager.refusals["hello", Refusal.TAG]


async def test_confirmations_and_records_of_nobody_leave_nothing(database_dsn, tmp_path, admin):
    """M3s, ANSWERs, ENROLs and records made up of random bytes write no row but a bounded number of log entries."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock(), refusal_events_per_minute=2) as (manager,):
        tables = ("handshake", "session", "session_route", "session_state", "stream", "device", "enrolment_token")
        count = "SELECT " + ", ".join(f"(SELECT count(*) FROM qflare.{table})" for table in tables)  # noqa: S608
        before, size = await admin.fetchrow(count), await admin.fetchval("SELECT size FROM qflare.log_head")
        bucket = (await manager.current_bucket()).to_bytes(8, "big")
        for _ in range(40):
            for message in (
                b"\x03\x01\x01" + bucket + os.urandom(286),
                b"\x07\x01\x02" + bucket + os.urandom(1838),
                b"\x03\x01\x01" + bucket + os.urandom(286) + os.urandom(80),
            ):
                try:
                    await manager.confirm(message)
                except RefusedError:
                    continue
                raise AssertionError
            for call in (
                manager.open_record(b"\x08\x01\x00" + os.urandom(16) + bucket + bytes(4) + b"\x01" + os.urandom(64)),
                manager.answer_enrolment(b"\x09\x01\x00\x01" + bucket + os.urandom(6948)),
            ):
                try:
                    await call
                except RefusedError:
                    continue
                raise AssertionError
            await manager.offer_for(os.urandom(32), tenant_id=os.urandom(16))
        await settle(manager)
        assert before == await admin.fetchrow(count)
        assert await admin.fetchval("SELECT size FROM qflare.log_head") - size <= 2 * 8
        assert 0 == len(engine_of(manager).sessions)
