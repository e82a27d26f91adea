import asyncio
import os
import threading
from contextlib import asynccontextmanager

import pytest

from manager_world import Edge, TurnedClock, engine_of, managers
from qflare.errors import ConfigError, KeyNotFoundError, KeyRevokedError, UsageError
from qflare.manager.background import Background
from qflare.manager.encapsulations import Encapsulations
from qflare.manager.offload import Offload
from qflare.manager.reserve import CHUNK, Reserve
from qflare.manager.settings import ManagerSettings
from qflare.primitives import kem
from qflare.protocol.wire import OFFER_TICKET_AT


@asynccontextmanager
async def filling(*, low=8, high=24, age_s=3600, clock=None):
    """A reserve at work, its executor and its background."""
    offload, background = Offload(threads=2, jobs_max=256), Background()
    settings = ManagerSettings(reserve_keys_low=low, reserve_keys_high=high, reserve_max_age_s=age_s)
    reserve = Reserve(offload=offload, clock=clock or TurnedClock(), settings=settings)
    background.start(reserve.run(background), name="reserve")
    try:
        yield reserve, offload, background
    finally:
        await background.close(5)
        reserve.close()
        offload.close()


async def until(claim):
    """Wait until *claim* holds."""
    async with asyncio.timeout(30):
        while not claim():
            await asyncio.sleep(0.005)


def is_wiped(keys):
    return not any(bytes(keys.signing_key.view())) and not any(bytes(keys.decapsulation_key.view()))


async def test_the_reserve_is_filled_to_the_high_mark_again_below_the_low_one():
    """It is filled up to the high mark, left alone down to the low one, and filled again below it."""
    async with filling(low=8, high=24) as (reserve, _, _):
        await until(lambda: len(reserve) == 24 and not reserve._is_low.is_set())
        taken = await reserve.take(16)
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert (8, 24) == (len(reserve), reserve.statistics.made), "at the low mark nothing is made"
        taken += await reserve.take(1)
        await until(lambda: len(reserve) == 24)
        figures = reserve.statistics
        assert (24, 41, 17, 0) == (figures.ready, figures.made, figures.taken, figures.missed)
        for keys in taken:
            keys.wipe()


async def test_nothing_is_made_while_other_work_runs():
    """The reserve is filled only while no other job runs: it takes nobody's thread."""
    async with filling(low=0, high=0) as (_, offload, background):
        settings = ManagerSettings(reserve_keys_low=4, reserve_keys_high=4)
        release = threading.Event()
        busy = asyncio.ensure_future(offload.run(release.wait))
        await asyncio.sleep(0)
        reserve = Reserve(offload=offload, clock=TurnedClock(), settings=settings)
        background.start(reserve.run(background), name="late")
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert 0 == reserve.statistics.made
        release.set()
        await busy
        await until(lambda: len(reserve) == 4)
        reserve.close()


async def test_each_pair_is_given_out_once_to_many_at_once():
    """Concurrent takers, more than the reserve holds, never see the same keys."""
    async with filling(low=8, high=24) as (reserve, _, _):
        await until(lambda: len(reserve) == 24)
        taken = [keys for some in await asyncio.gather(*(reserve.take(3) for _ in range(40))) for keys in some]
        assert 120 == len(taken)
        assert 120 == len({keys.encapsulation_key for keys in taken}) == len({k.verification_key for k in taken})
        assert not any(is_wiped(keys) for keys in taken)
        assert 120 == reserve.statistics.taken + reserve.statistics.missed
        for keys in taken:
            keys.wipe()


async def test_a_cancelled_taker_brings_nothing_back():
    """What a cancelled taker had taken is wiped and in nobody's hands."""
    async with filling(low=0, high=CHUNK) as (reserve, offload, _):
        await until(lambda: len(reserve) == CHUNK)
        inside = [keys for _, keys in reserve._ready]
        release = threading.Event()
        jobs = [asyncio.ensure_future(offload.run(release.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        taker = asyncio.ensure_future(reserve.take(CHUNK + 1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker
        assert all(is_wiped(keys) for keys in inside)
        release.set()
        await asyncio.gather(*jobs)
        fresh = await reserve.take(1)
        assert fresh[0].encapsulation_key not in {keys.encapsulation_key for keys in inside}
        fresh[0].wipe()


async def test_what_is_too_old_is_wiped():
    """Pairs past the maximum age are wiped, never given out, and replaced."""
    clock = TurnedClock()
    async with filling(low=4, high=8, age_s=60, clock=clock) as (reserve, _, _):
        await until(lambda: len(reserve) == 8)
        inside = [keys for _, keys in reserve._ready]
        clock.turn(59)
        reserve.discard_old()
        assert 8 == len(reserve)
        clock.turn(1)
        (keys,) = await reserve.take(1)
        assert all(is_wiped(old) for old in inside)
        assert not is_wiped(keys)
        assert keys.encapsulation_key not in {old.encapsulation_key for old in inside}
        await until(lambda: len(reserve) == 8)
        assert 8 == reserve.statistics.discarded
        keys.wipe()


async def test_closing_wipes_everything_and_what_comes_late():
    """After closing nothing is held, and what was being made then is wiped when it comes."""
    async with filling(low=4, high=8) as (reserve, _, _):
        await until(lambda: len(reserve) == 8)
        inside = [keys for _, keys in reserve._ready]
        reserve.close()
        late = await Reserve.take(reserve, 1)
        reserve._add(late)
        assert all(is_wiped(keys) for keys in [*inside, *late])
        assert 0 == len(reserve)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_child_has_no_reserve_of_its_parents():
    """In a child process both reserves are empty and every secret in them is zero; the parent's are as they were."""
    async with filling(low=4, high=8) as (reserve, offload, _):
        await until(lambda: len(reserve) == 8)
        encapsulations = Encapsulations(offload=offload, clock=TurnedClock(), settings=ManagerSettings())
        pair = kem.generate()
        assert 1 == await encapsulations.prepare(bytes(16), [(bytes(32), pair.encapsulation_key)])
        inside = [keys for _, keys in reserve._ready]
        made = next(iter(encapsulations._ready.values())).encapsulated
        child = os.fork()
        if not child:
            is_empty = len(reserve) == len(encapsulations) == 0
            is_clean = all(is_wiped(keys) for keys in inside) and not any(bytes(made.shared_secret.view()))
            is_closed = encapsulations.take(bytes(16), bytes(32), pair.encapsulation_key) is None
            os._exit(0 if is_empty and is_clean and is_closed else 1)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert 0 == os.waitstatus_to_exitcode(status)
        assert (8, 1) == (len(reserve), len(encapsulations))
        assert not any(is_wiped(keys) for keys in inside)
        with encapsulations.take(bytes(16), bytes(32), pair.encapsulation_key).shared_secret as secret:
            assert secret.equals(kem.decapsulate(pair.decapsulation_key, made.ciphertext))


def test_marks_that_cannot_be_are_refused():
    """A low mark above the high one is an error that names it."""
    with pytest.raises(ConfigError, match="reserve_keys_low"):
        ManagerSettings(reserve_keys_low=2, reserve_keys_high=1)


async def test_devices_are_made_from_the_reserve_and_nothing_of_it_is_stored(database_dsn, tmp_path, admin, caplog):
    """Generate and rotate take from the reserve; what lies in it is in no table, log line or repr."""
    async with managers(database_dsn, tmp_path, reserve_keys_low=4, reserve_keys_high=8) as (manager,):
        reserve = engine_of(manager).reserve
        await until(lambda: len(reserve) == 8)
        inside = [keys for _, keys in reserve._ready]
        assert 0 == await admin.fetchval("SELECT count(*) FROM qflare.device_key")
        assert "<Reserve of 8 key pairs>" == repr(reserve)
        with await manager.generate_device_keypair("a") as pair, await manager.rotate_device_keys("a") as rotated:
            assert [pair.public_key, rotated.public_key] == [keys.encapsulation_key for keys in inside[:2]]
        edge = await Edge.provision(manager)
        await edge.connect(manager)
        figures = (await manager.reserve_statistics())["keys"]
        assert (3, 0) == (figures.taken, figures.missed)
        stored = {row["public_key"] for row in await admin.fetch("SELECT public_key FROM qflare.device_key")}
        assert not stored & {keys.encapsulation_key for _, keys in reserve._ready}
        inside = [keys for _, keys in reserve._ready]
    assert all(is_wiped(keys) for keys in inside)
    assert not any(keys.encapsulation_key.hex()[:32] in caplog.text for keys in inside)


async def test_offers_use_what_was_made_ahead_once(database_dsn, tmp_path):
    """An encapsulation made ahead serves one offer, whose session is as any other's; the next offer gets its own."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edges = [await Edge.provision(manager) for _ in range(3)]
        assert 3 == await manager.prepare_offers([edge.name for edge in edges])
        assert 3 == await manager.prepare_offers([edge.name for edge in edges]), "nothing is made twice"
        held = engine_of(manager).encapsulations
        secrets = [made.encapsulated.shared_secret for made in held._ready.values()]
        offers = [
            (await manager.initiate_temporal_key_exchange(edges[0].name, edges[0].pair.public_key)).offer
            for _ in range(2)
        ]
        body = {offer[OFFER_TICKET_AT - kem.CT_BYTES : OFFER_TICKET_AT] for offer in offers}
        assert 2 == len(body)
        for offer in offers:
            pending = await edges[0].answer(manager, offer)
            edges[0].accept(pending, (await manager.confirm(pending.message)).confirmation)
        mixed = await manager.initiate_temporal_key_exchanges_many(
            [(edge.name, edge.pair.public_key) for edge in edges]
        )
        for edge, exchange in zip(edges, mixed, strict=True):
            pending = await edge.answer(manager, exchange.offer)
            edge.accept(pending, (await manager.confirm(pending.message)).confirmation)
        figures = (await manager.reserve_statistics())["offers"]
        assert (0, 3, 3, 2, 0) == (
            figures.ready,
            figures.made,
            figures.taken,
            figures.missed,
            figures.discarded,
        )
        assert not any(any(bytes(secret.view())) for secret in secrets), "what has served is wiped"


async def test_concurrent_offers_never_share_an_encapsulation(database_dsn, tmp_path):
    """Many offers to one device at once: one gets what was made ahead, no two the same."""
    async with managers(database_dsn, tmp_path) as (manager,):
        edge = await Edge.provision(manager)
        await manager.prepare_offers([edge.name])
        offers = await asyncio.gather(*(manager.offer_for(edge.device.ref) for _ in range(32)))
        assert 32 == len({offer[OFFER_TICKET_AT - kem.CT_BYTES : OFFER_TICKET_AT] for offer in offers})
        assert 1 == (await manager.reserve_statistics())["offers"].taken


async def test_rotation_and_revocation_void_what_was_made_ahead(database_dsn, tmp_path):
    """What was made to keys that were rotated, here or elsewhere, or for a revoked device, serves no offer."""
    async with managers(database_dsn, tmp_path, 2) as (one, two):
        here, elsewhere, revoked = [await Edge.provision(one) for _ in range(3)]
        assert 3 == await one.prepare_offers([edge.name for edge in (here, elsewhere, revoked)])
        for manager, edge in ((one, here), (two, elsewhere)):
            edge.pair = await manager.rotate_device_keys(edge.name)
            edge.device = edge.pair.identity()
        held = engine_of(one).encapsulations
        await until(lambda: 1 == len(held))  # what another worker did is heard of within a second
        await one.revoke_device(revoked.name, reason="lost")
        assert 0 == len(held)
        for edge in (here, elsewhere):
            await edge.connect(one, form="offer")
        with pytest.raises(KeyRevokedError):
            await one.initiate_temporal_key_exchange(revoked.name, revoked.pair.public_key)
        assert 0 == await one.prepare_offers([revoked.name])
        figures = (await one.reserve_statistics())["offers"]
        assert (0, 0, 3) == (figures.ready, figures.taken, figures.discarded)


async def test_an_encapsulation_serves_the_key_it_was_made_to_alone():
    """Asked for another key of the device it is wiped, and so it is when it is too old."""
    clock, offload = TurnedClock(), Offload(threads=1, jobs_max=8)
    held = Encapsulations(offload=offload, clock=clock, settings=ManagerSettings(reserve_max_age_s=60))
    keys = [kem.generate().encapsulation_key for _ in range(2)]
    for wanted, seconds in ((keys[1], 0), (keys[0], 60)):
        assert 1 == await held.prepare(bytes(16), [(bytes(32), keys[0])])
        secret = next(iter(held._ready.values())).encapsulated.shared_secret
        clock.turn(seconds)
        assert held.take(bytes(16), bytes(32), wanted) is None
        assert not any(bytes(secret.view()))
        assert 0 == len(held)
    assert 1 == await held.prepare(bytes(16), [(bytes(32), keys[0]), (bytes(31) + b"x", b"\xff" * kem.EK_BYTES)])
    held.close()
    offload.close()


async def test_what_is_made_ahead_is_bounded_in_number_and_age(database_dsn, tmp_path):
    """No more encapsulations are held than the bound, and none past its age."""
    clock = TurnedClock()
    async with managers(
        database_dsn, tmp_path, clock=clock, reserve_offers_max=2, reserve_max_age_s=60, bucket_width_s=86_400
    ) as (manager,):
        edges = [await Edge.provision(manager) for _ in range(3)]
        assert 2 == await manager.prepare_offers([edge.name for edge in edges])
        assert 1 == await manager.prepare_offers([edges[2].name])
        held = engine_of(manager).encapsulations
        assert 2 == len(held)
        clock.turn(60)
        await manager.turn()
        assert 0 == len(held)
        with pytest.raises(KeyNotFoundError):
            await manager.prepare_offers(["nobody"])
        with pytest.raises(UsageError):
            await manager.prepare_offers("nobody")
