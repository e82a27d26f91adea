"""What is answered is under a signed head: shared by who waits, seen by a look that began after them, never forged."""

import asyncio
import gc
from contextlib import asynccontextmanager

import pytest

from manager_world import Edge, TurnedClock, engine_of, make_manager, managers
from qflare.errors import QflareError, StoreUnavailableError, UncoveredError
from qflare.manager.cover import Cover
from qflare.manager.device_keypair import DeviceKeypair
from qflare.manager.log import Log
from qflare.model.device import Device, KeyState
from qflare.protocol.device_keys import DeviceKeys

CALLERS = 50


def looks_of(manager):
    return engine_of(manager).foundation.log._cover._looks.batches


async def settled():
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_comes_during_a_look_waits_for_the_next():
    """A look that began before a change does not cover it; all who came meanwhile share the one after it."""
    begun, may_end = [], asyncio.Semaphore(0)

    async def sign():
        begun.append(len(begun))
        await may_end.acquire()

    cover, ended = Cover(sign, waiting_max=2 * CALLERS), []

    async def wait(name):
        await cover.wait()
        ended.append(name)

    first = asyncio.create_task(wait("first"))
    await settled()
    others = [asyncio.create_task(wait("other")) for _ in range(CALLERS)]
    await settled()
    assert ([0], []) == (begun, ended)
    may_end.release()
    await first
    await settled()
    assert ([0, 1], ["first"]) == (begun, ended)
    may_end.release()
    await asyncio.gather(*others)
    assert (2, CALLERS + 1) == (len(begun), len(ended))
    await cover.close(1.0)


async def test_one_failure_is_each_callers_own_error_and_no_more_are_taken():
    """A look that fails fails all who shared it, each with an error of their own; a full queue is one too."""
    failure = QflareError("no hand to sign with")

    async def sign():
        raise failure

    cover = Cover(sign, waiting_max=CALLERS)
    ended = await asyncio.gather(*(cover.wait() for _ in range(CALLERS + 1)), return_exceptions=True)
    assert {UncoveredError} == {type(each) for each in ended}
    assert CALLERS + 1 == len({id(each) for each in ended})
    assert CALLERS == sum("no hand to sign with" in str(each) for each in ended)
    assert [each.outcome_unknown for each in ended] == [False] * (CALLERS + 1)
    await cover.close(1.0)


async def test_handshakes_and_records_cost_no_look(database, tmp_path):
    """Their answers carry a receipt, or write no entry: nothing is read or signed beside it."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        edge = await Edge.provision(manager)
        before = looks_of(manager)
        sid = (await edge.connect(manager)).sid
        with await manager.open_record(edge.seal(sid, b"hello")):
            await manager.seal_record(sid, b"back")
        assert before == looks_of(manager)
        assert await manager.end_session(sid)
        assert before + 1 == looks_of(manager)


async def test_a_covered_log_is_not_signed_again(database, tmp_path, monkeypatch):
    """Where this worker's head covers the log a look is a look; where another worker wrote since it signs."""
    signed = []
    sign = Log._sign

    def counted(self, *given):
        signed.append(given)
        return sign(self, *given)

    monkeypatch.setattr(Log, "_sign", counted)
    async with managers(database, tmp_path, 2, clock=TurnedClock()) as (one, two):
        await one.create_tenant("a")
        count = len(signed)
        for _ in range(3):
            await engine_of(one).foundation.log.cover()
        assert count == len(signed)
        await two.create_tenant("b")
        await engine_of(one).foundation.log.cover()
        assert count + 2 == len(signed)


@asynccontextmanager
async def without_marks(manager, folder):
    """Take a worker's keeper away, where it must note what it signs."""
    keeper = folder / "data" / "keeper"
    keeper.rename(folder / "away")
    engine_of(manager).foundation.marks._reserved = 0
    try:
        yield
    finally:
        (folder / "away").rename(keeper)


async def test_a_worker_that_may_not_sign_answers_no_change(database_dsn, tmp_path):
    """With a log key of its own and no place for its marks: the change stands, uncovered, and is counted."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        edge, log = await Edge.provision(manager), engine_of(manager).foundation.log
        async with without_marks(manager, tmp_path):
            with pytest.raises(UncoveredError):
                await manager.suspend_device(edge.name, reason="x", call_id=bytes(16))
            assert [("sign", "KeeperError")] == list(log.failures.counts)
        assert KeyState.SUSPENDED is (await manager.suspend_device(edge.name, reason="x", call_id=bytes(16))).state
        assert 1 == sum(log.failures.counts.values())


async def test_a_rewritten_log_covers_nothing(database_dsn, tmp_path, admin):
    """A log whose past was exchanged is not signed: whoever changes something meanwhile hears of it, and it counts."""
    async with managers(database_dsn, tmp_path, clock=TurnedClock()) as (manager,):
        edge, log = await Edge.provision(manager), engine_of(manager).foundation.log
        await manager.create_tenant("a")
        frontier = await admin.fetchval("SELECT frontier FROM qflare.log_head")
        await admin.execute("UPDATE qflare.log_head SET frontier = $1", bytes(len(frontier)))
        with pytest.raises(UncoveredError, match="rewritten"):
            await log.cover()
        with pytest.raises(UncoveredError, match="rewritten"):
            await manager.suspend_device(edge.name, reason="x", call_id=bytes(16))
        assert {("sign", "EvidenceError"): 2} == log.failures.counts


@pytest.mark.parametrize("name", ["register", "tell", "suspend"])
async def test_what_ends_while_the_manager_closes_is_not_told_as_undone(database, tmp_path, name):
    """A change that was accepted before close() is answered, or is said to stand: never that nothing was done."""
    async with make_manager(database, tmp_path, clock=TurnedClock()) as manager:
        edge, queue = await Edge.provision(manager), engine_of(manager).registrations.queue
        with DeviceKeys.generate() as keys:
            calls = {
                "register": lambda: manager.register_device(
                    "new", verification_key=keys.verification_key, encapsulation_key=keys.encapsulation_key
                ),
                "tell": lambda: manager.generate_device_keypair("told"),
                "suspend": lambda: manager.suspend_device(edge.name, reason="x"),
            }
            call = asyncio.create_task(calls[name]())
            while name != "suspend" and not queue.statistics.in_flight:
                await asyncio.sleep(0)
            await settled()
            await manager.close()
            (ended,) = await asyncio.gather(call, return_exceptions=True)
        if isinstance(ended, DeviceKeypair):
            ended.wipe()
        assert isinstance(ended, (Device, DeviceKeypair, StoreUnavailableError)), ended


async def test_who_leaves_takes_nobodys_look_and_a_closed_cover_ends_all():
    """One of several waiters is cancelled: the others are answered; closed while they wait, they hear that it stands."""
    begun, may_end, strays = [], asyncio.Semaphore(0), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: strays.append(context))

    async def sign():
        begun.append(len(begun))
        await may_end.acquire()
        raise QflareError("no hand to sign with")

    cover = Cover(sign, waiting_max=CALLERS)
    first, leaving, other, last = [asyncio.create_task(cover.wait()) for _ in range(4)]
    await settled()
    leaving.cancel()
    await asyncio.wait({leaving})
    may_end.release()
    ended = await asyncio.gather(first, other, last, return_exceptions=True)
    assert [UncoveredError] * 3 == [type(each) for each in ended]
    alone = asyncio.create_task(cover.wait())
    await settled()
    alone.cancel()
    await asyncio.wait({alone})
    late = [asyncio.create_task(cover.wait()) for _ in range(3)]
    await settled()
    await cover.close(0.0)
    ended = await asyncio.gather(*late, cover.wait(), return_exceptions=True)
    assert [UncoveredError] * 4 == [type(each) for each in ended]
    assert [0, 1] == begun
    gc.collect()
    await settled()
    assert not strays
    assert asyncio.all_tasks() == {asyncio.current_task()}
