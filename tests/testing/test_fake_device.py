"""A fake device: real handshakes and records in one process, with what goes wrong on the way in the test's hands."""

import pytest

from manager_world import settings
from memory_world import make_memory_store
from qflare.device.transport import Step
from qflare.errors import ProtocolError, RefusedError, StoreUnavailableError
from qflare.manager.settings import ManagerSettings
from qflare.model.rotation import RotationPolicy
from qflare.protocol import wire
from qflare.protocol.rotation import Urgency
from qflare.service.aggregator import Reply
from qflare.testing import FakeDevice, MemoryKeeper, TurnableClock, memory_manager

pytestmark = pytest.mark.filterwarnings("ignore::qflare.testing.TestingOnlyWarning")


async def echo(record, aad):
    with record, record.plaintext.view() as view:
        return Reply(bytes(view)[::-1], aad=aad)


async def said(device, text):
    """What the application answers to a message."""
    reply = await device.exchange(text)
    with reply.plaintext, reply.plaintext.view() as view:
        return bytes(view)


@pytest.fixture
def clock():
    # In the middle of a bucket: at its end the manager looks at the clock by itself as well, in real time.
    return TurnableClock(1_700_000_000 // 300 * 300 + 100)


@pytest.fixture
async def manager(clock):
    async with memory_manager(clock=clock, config=ManagerSettings(tick_max_s=3600.0)) as opened:
        yield opened


@pytest.mark.parametrize("form", ["hello", "offer"])
async def test_both_forms_and_records_work(manager, clock, form):
    """Sessions of either form carry records both ways, and both sides derive the same keys."""
    async with await FakeDevice.provisioned(manager, "d", clock=clock, on_record=echo) as device:
        terms = await device.connect(form)
        assert b"cba" == await said(device, b"abc")
        with (
            await device.derive_session_key("encryption") as ours,
            await manager.derive_session_key(terms.sid, "encryption") as theirs,
        ):
            assert ours.equals(theirs)
        assert terms.sid == (await manager.find_session(terms.sid)).sid
        await manager.monitor.verify_log()


async def test_a_device_enrols_rekeys_requests_and_rotates(manager, clock, tmp_path):
    """Enrolment, rekey, late request and rotation go their way without HTTP, and the log verifies."""

    async def answer(record, _aad):
        with record:
            return Reply(b"done", request_id=record.request_id)

    state = tmp_path / "state"
    async with await FakeDevice.enrolled(manager, "d", state=state, clock=clock, on_record=answer) as device:
        first = await device.connect("offer")
        assert first.sid == (await device.rekey()).sid
        assert 1 == (await manager.find_session(first.sid)).epoch
        _, reply = await device.request(b"please")
        assert reply.plaintext.equals(b"done")
        assert 2 == await device.rotate_keys()
        assert 2 == (await manager.find_device("d")).key_version
        await device.connect()
    assert 1 == device.link.carried.count(Step.ENROL)
    await manager.monitor.verify_log()


async def test_lost_messages_and_answers_are_made_up_for(manager, clock):
    """Whatever is lost or repeated on the way, one session stands; the waits take no time and turn the clock."""
    async with await FakeDevice.provisioned(manager, "d", clock=clock, on_record=echo) as device:
        before = clock.now_ms()
        device.link.lose_messages, device.link.lose_answers = 1, 2
        device.link.repeat = 9
        await device.connect()
        assert 3 == len(device.pauses)
        assert clock.now_ms() - before >= 3000
        assert 1 == (await manager.get_key_statistics()).sessions_total
        assert b"cba" == await said(device, b"abc")
        assert wire.REFUSED == device.link.repeated_answers[-1]


async def test_a_sleeping_device_comes_back(manager, clock):
    """Nothing passes while a device sleeps; after buckets have turned it goes on in its session."""
    async with await FakeDevice.provisioned(manager, "d", clock=clock, on_record=echo) as device:
        terms = await device.connect()
        device.link.is_asleep = True
        carried = len(device.link.carried)
        with pytest.raises(StoreUnavailableError, match="asleep"):
            await device.refresh()
        assert carried == len(device.link.carried)
        for _ in range(4):
            clock.turn(manager.settings.bucket_width_s)
            bucket = await manager.turn()
        device.link.is_asleep = False
        assert bucket == await device.refresh()
        assert b"cba" == await said(device, b"abc")
        assert terms.sid == device.session.sid


async def test_pauses_let_no_bucket_pass_unseen():
    """A device that pauses across a bucket's end lets the manager turn there: the session lives on."""
    clock = TurnableClock(1_700_000_000 // 300 * 300 + 299)
    config = ManagerSettings(tick_max_s=3600.0)
    async with (
        memory_manager(clock=clock, config=config) as manager,
        await FakeDevice.provisioned(manager, "d", clock=clock, on_record=echo) as device,
    ):
        terms = await device.connect()
        before = await manager.current_bucket()
        device.link.is_asleep = True
        with pytest.raises(StoreUnavailableError, match="asleep"):
            await device.refresh()
        assert device.pauses
        await device._pause(1000.0)
        device.link.is_asleep = False
        for _ in range(2):
            clock.turn(manager.settings.bucket_width_s)
            bucket = await manager.turn()
        assert before + 6 == bucket
        await device.refresh()
        assert b"cba" == await said(device, b"abc")
        assert terms.sid == device.session.sid


async def test_a_refusal_is_a_refusal(manager, clock):
    """A revoked device is refused as over HTTP, and what the application throws is no answer."""

    async def fail(_record, _aad):
        raise ZeroDivisionError

    async with await FakeDevice.provisioned(manager, "d", clock=clock, on_record=fail) as device:
        await device.connect()
        with pytest.raises(ProtocolError, match="could not answer"):
            await device.exchange(b"x")
        await manager.revoke_device("d", reason="lost")
        with pytest.raises(RefusedError):
            await device.connect(attempts=1)


async def test_workers_share_a_store_and_the_next_finds_it(clock):
    """Two managers over one store take each other's sessions, and one that opens later goes on with what they left."""
    store, keeper = make_memory_store(clock), MemoryKeeper()
    async with memory_manager(clock=clock, store=store, keeper=keeper) as one:
        device = await FakeDevice.provisioned(one, "d", clock=clock, on_record=echo)
        terms = await device.connect()
        async with memory_manager(clock=clock, store=store, keeper=keeper) as two:
            assert await one.server_id() == await two.server_id()
            with await device.derive_session_key("encryption") as key:
                assert await two.verify_session_key(terms.sid, key, purpose="encryption")
    async with memory_manager(clock=clock, store=store, keeper=keeper) as later:
        assert terms.sid == (await later.find_session(terms.sid)).sid
        await later.monitor.verify_log()
    await device.close()


async def test_a_fake_device_speaks_to_a_database_too(database_dsn, tmp_path):
    """The same device works with a manager over PostgreSQL."""
    from qflare import QuantumKeyManager

    async with (
        QuantumKeyManager(database_dsn, data_dir=tmp_path, config=settings(tmp_path)) as manager,
        await FakeDevice.provisioned(manager, "d", on_record=echo) as device,
    ):
        await device.connect()
        assert b"cba" == await said(device, b"abc")


async def test_a_policy_is_seen_to_the_end_by_turning_the_clock(manager, clock, tmp_path):
    """Of a policy of hours one sees the mark, the device that follows it and the progress, without waiting for any."""
    device = await FakeDevice.enrolled(manager, "d", state=tmp_path / "state", clock=clock, on_record=echo)
    async with device:
        await manager.set_rotation_policy(RotationPolicy(max_age_s=7200, jitter_percent=0))
        await device.connect()
        assert (1, Urgency.NONE) == (device.device.key_version, await device.rotation_urgency())
        for _ in range(7200 // manager.settings.bucket_width_s + 1):
            clock.turn(manager.settings.bucket_width_s)
            await manager.turn()
        assert 1 == (await manager.rotation_progress()).waiting
        await device.connect()
        await device.exchange(b"x")
        progress = await manager.rotation_progress()
        assert (2, 0, 1) == (device.device.key_version, progress.waiting, progress.rotated)
