# ruff: noqa: ARG002 - every call takes the world and its subject, needed or not

"""
Every call of the key manager, cancelled at every one of its suspensions, in both moments; and every batch likewise.

After each cancellation: no connection, thread or secret is held, no task is left, callers of the same batch have their
own results, the call can be made again, and at the end database and log tell of the same changes.
"""

import asyncio
import gc
import itertools
from contextlib import asynccontextmanager
from os import urandom

import pytest

from cancelling import Flights, Moment, Plan, stepped
from manager_world import Edge, engine_of, make_manager
from qflare.errors import AlreadyExistsError, IllegalTransitionError, RefusedError, StoreUnavailableError
from qflare.model.event import EventSeverity, SecurityEventType
from qflare.model.refusal import Refusal
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import accept_enrolled, start_enrolment
from qflare.protocol.hello_device import start_hello
from qflare.protocol.record import KIND_CONTROL
from qflare.protocol.rotation import make_rotation
from qflare.protocol.token import decode_token
from qflare.secret import SecretBytes
from qflare.testing import TurnableClock

SUSPENSIONS_MAX = 200
"""A call that waits more often than that does not end."""


class World:
    """One manager, one device with a session, and fresh names."""

    def __init__(self, manager, edge, sid):
        self.manager, self.edge, self.sid = manager, edge, sid
        self._numbers = itertools.count()

    @classmethod
    async def make(cls, manager):
        edge = await Edge.provision(manager)
        return cls(manager, edge, (await edge.connect(manager)).sid)

    def name(self):
        return f"name-{next(self._numbers)}"

    async def settled(self):
        """Wait until nothing of the cancelled call is under way; fail if something stays."""
        foundation = engine_of(self.manager).foundation
        pool = foundation.store._pool

        def is_quiet():
            tasks = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("qflare-batch")]
            return not tasks and pool.get_idle_size() == pool.get_size() and foundation.offload._jobs == 0

        async with asyncio.timeout(30):
            while not is_quiet():
                await asyncio.sleep(0.002)


class Register:
    queue = "device registration"

    async def prepare(self, world):
        with DeviceKeys.generate() as keys:
            return world.name(), {
                "verification_key": keys.verification_key,
                "encapsulation_key": keys.encapsulation_key,
            }

    async def act(self, world, subject):
        return await world.manager.register_device(subject[0], **subject[1])

    async def again(self, world, subject):
        try:
            await self.act(world, subject)
        except AlreadyExistsError:
            found = await world.manager.get_device_public_key(subject[0])
            assert subject[1]["encapsulation_key"] == found.public_key


class Generate:
    queue = None

    async def prepare(self, world):
        return world.name()

    async def act(self, world, subject):
        (await world.manager.generate_device_keypair(subject)).wipe()

    async def again(self, world, subject):
        try:
            await self.act(world, subject)
        except AlreadyExistsError:
            (await world.manager.rotate_device_keys(subject)).wipe()


class Hello:
    queue = "hello"

    async def prepare(self, world):
        return start_hello(world.edge.device, await world.edge.announcement(world.manager)).message

    async def act(self, world, subject):
        return await world.manager.answer_hello(subject)

    async def again(self, world, subject):
        await world.edge.hello(world.manager)


class Finish:
    """M3, or ANSWER."""

    queue = "confirm"

    def __init__(self, form):
        self.form = form

    async def prepare(self, world):
        edge = world.edge
        return await (edge.hello(world.manager) if self.form == "hello" else edge.answer(world.manager))

    async def act(self, world, subject):
        return await world.manager.confirm(subject.message)

    async def again(self, world, subject):
        world.edge.accept(subject, (await self.act(world, subject)).confirmation)


class Offer:
    queue = "offer"

    async def prepare(self, world):
        return world.edge.pair.public_key

    async def act(self, world, subject):
        return await world.manager.initiate_temporal_key_exchange(world.edge.name, subject)

    again = act


class Open:
    queue = "open record"

    async def prepare(self, world):
        return world.edge.seal(world.sid, b"update")

    async def act(self, world, subject):
        with await world.manager.open_record(subject) as record, record.plaintext.view() as view:
            assert b"update" == bytes(view)

    async def again(self, world, subject):
        try:
            await self.act(world, subject)
        except RefusedError as refusal:
            assert Refusal.REPLAY == refusal.reason  # noqa: PT017 - taken, and wiped with its caller's cancellation
        await self.act(world, await self.prepare(world))


class Seal:
    queue = "seal record"

    async def prepare(self, world):
        return world.sid

    async def act(self, world, subject):
        return await world.manager.seal_record(subject, b"reply")

    again = act


class Derive:
    queue = "derive key"

    async def prepare(self, world):
        return world.sid

    async def act(self, world, subject):
        with await world.manager.derive_session_key(subject, "masks") as key:
            assert 64 == len(key)

    again = act


class LogEvent:
    queue = "log event"

    async def prepare(self, world):
        return {"n": next(world._numbers)}, urandom(16)

    async def act(self, world, subject):
        return await world.manager.monitor.log_security_event(
            SecurityEventType.OPERATOR_ACTION, EventSeverity.INFO, subject[0], call_id=subject[1]
        )

    async def again(self, world, subject):
        places = {(await self.act(world, subject)).index for _ in range(2)}
        assert 1 == len(places)


class Enrol:
    queue = "enrol"

    async def prepare(self, world):
        name = world.name()
        text = await world.manager.issue_enrolment_token(name)
        with decode_token(text) as token:
            keys = DeviceKeys.generate()
            return start_enrolment(token, name, await world.edge.announcement(world.manager), keys), keys

    async def act(self, world, subject):
        return await world.manager.answer_enrolment(subject[0].message)

    async def again(self, world, subject):
        with subject[1]:
            accept_enrolled(subject[0], await self.act(world, subject), subject[1])


class Control:
    """E4: a device rotates its keys in a session of its own."""

    queue = None

    async def prepare(self, world):
        edge = await Edge.provision(world.manager, world.name())
        sid = (await edge.connect(world.manager)).sid
        keys = DeviceKeys.generate()
        return edge, sid, keys, make_rotation(edge.device, keys)

    async def act(self, world, subject):
        edge, sid, _, body = subject
        with await world.manager.open_record(edge.seal(sid, body, kind=KIND_CONTROL)) as record:
            return await world.manager.answer_control(record)

    async def again(self, world, subject):
        assert await self.act(world, subject)
        subject[2].wipe()


class Rotate:
    queue = None

    async def prepare(self, world):
        name = world.name()
        (await world.manager.generate_device_keypair(name)).wipe()
        return name

    async def act(self, world, subject):
        (await world.manager.rotate_device_keys(subject)).wipe()

    again = act


class Suspend:
    queue = None

    async def prepare(self, world):
        name = world.name()
        (await world.manager.generate_device_keypair(name)).wipe()
        return name, urandom(16)

    async def act(self, world, subject):
        await world.manager.suspend_device(subject[0], reason="test", call_id=subject[1])

    async def again(self, world, subject):
        await self.act(world, subject)
        with pytest.raises(IllegalTransitionError):
            await world.manager.suspend_device(subject[0], reason="test")


class Psk:
    queue = None

    async def prepare(self, world):
        name = world.name()
        (await world.manager.generate_device_keypair(name)).wipe()
        return name, urandom(64), urandom(16)

    async def act(self, world, subject):
        await world.manager.set_device_psk(subject[0], subject[1], call_id=subject[2])

    again = act


class Token:
    queue = None

    async def prepare(self, world):
        return world.name()

    async def act(self, world, subject):
        await world.manager.issue_enrolment_token(subject)

    again = act


class Tenant:
    queue = None

    async def prepare(self, world):
        return world.name()

    async def act(self, world, subject):
        await world.manager.create_tenant(subject)

    async def again(self, world, subject):
        try:
            await self.act(world, subject)
        except AlreadyExistsError:
            assert subject in {name for _, name in await world.manager.list_tenants()}


class End:
    queue = None

    async def prepare(self, world):
        return (await world.edge.connect(world.manager)).sid, urandom(16)

    async def act(self, world, subject):
        return await world.manager.end_session(subject[0], call_id=subject[1])

    async def again(self, world, subject):
        assert await self.act(world, subject)


class Care:
    """Clean-up and a look at the clock."""

    queue = None

    async def prepare(self, world):
        return None

    async def act(self, world, subject):
        await world.manager.cleanup_expired_keys_and_sessions()
        await world.manager.turn()

    again = act


CALLS = {
    "register": Register(),
    "generate": Generate(),
    "hello": Hello(),
    "finish": Finish("hello"),
    "offer": Offer(),
    "answer": Finish("offer"),
    "open": Open(),
    "seal": Seal(),
    "derive": Derive(),
    "log": LogEvent(),
    "enrol": Enrol(),
    "control": Control(),
    "rotate": Rotate(),
    "suspend": Suspend(),
    "psk": Psk(),
    "token": Token(),
    "tenant": Tenant(),
    "end": End(),
    "care": Care(),
}
BATCHES = [name for name, call in CALLS.items() if call.queue]


@asynccontextmanager
async def worlds(dsn, folder, clock=None):
    async with make_manager(dsn, folder, pool_size_max=3, clock=clock) as manager:
        world = await World.make(manager)
        yield world
        # Turned over to others, nothing may have been lost or done by half: database and log tell the same.
        await world.settled()
        await manager.monitor.verify_log()


PAIRS = (
    ("SELECT count(*) FROM qflare.session", "event_type = 'key_exchange'"),
    ("SELECT count(*) FROM qflare.handshake", "event_type = 'key_exchange'"),
    (
        "SELECT count(*) FROM qflare.device",
        "event_type = 'device_enrolment' OR event_type = 'key_generation' AND log_index IN (TABLE sealed)",
    ),
    ("SELECT coalesce(sum(key_version - 1), 0) FROM qflare.device", "event_type = 'key_rotation'"),
    ("SELECT count(*) FROM qflare.enrolment_token", "event_type = 'token_issued'"),
    ("SELECT count(*) - 1 FROM qflare.tenant", "event_type = 'tenant_created'"),
    ("SELECT count(*) FROM qflare.session WHERE state = 'ended'", "event_type = 'session_ended'"),
)
"""What the database holds, and the entries of the log that tell of it."""
SEALED = "WITH sealed AS (SELECT log_index FROM qflare.audit_key)"
"""Entries about a device."""


async def compare(admin):
    for rows, entries in PAIRS:
        logged = await admin.fetchval(f"{SEALED} SELECT count(*) FROM qflare.audit_entry WHERE {entries}")  # noqa: S608
        assert logged == await admin.fetchval(rows), rows


def plans(moment):
    """A plan for each suspension, up to the first that no cancellation reached; a call without any is a mistake."""
    for at in range(1, SUSPENSIONS_MAX):
        plan = Plan(at, moment)
        yield plan
        if not plan.is_reached:
            assert at > 1
            return
    pytest.fail("the call does not end")


def live_secrets():
    """How many secrets are in memory that were not wiped."""
    gc.collect()
    return sum(1 for item in gc.get_objects() if type(item) is SecretBytes and not item.equals(bytes(len(item))))


@pytest.mark.parametrize("name", list(CALLS))
async def test_a_call_cancelled_anywhere_leaves_nothing_half_done(database_dsn, admin, tmp_path, name):
    """Cancelled at its n-th suspension, for every n, a call is done or not, holds nothing, and can be made again."""
    call = CALLS[name]
    async with worlds(database_dsn, tmp_path) as world:
        await call.again(world, await call.prepare(world))
        for moment in Moment:
            for plan in plans(moment):
                subject, other = await call.prepare(world), await call.prepare(world)
                await world.settled()
                task = asyncio.create_task(stepped(call.act(world, subject), plan))
                beside = asyncio.create_task(call.act(world, other))
                await asyncio.wait({task, beside})
                assert plan.is_reached == task.cancelled(), (plan.at, moment)
                # Who shares the batch has its own result.
                beside.result()
                await world.settled()
                await call.again(world, subject)
        await compare(admin)


@pytest.mark.parametrize("name", BATCHES)
async def test_a_batch_cancelled_anywhere_tells_its_callers(database_dsn, admin, tmp_path, name):
    """Cancelled at its n-th suspension, as closing does it, a batch leaves its callers an error they can act on."""
    call = CALLS[name]
    async with worlds(database_dsn, tmp_path) as world:
        for moment in Moment:
            for plan in plans(moment):
                subjects = [await call.prepare(world) for _ in range(2)]
                await world.settled()
                with Flights(call.queue, plan):
                    acts = [asyncio.create_task(call.act(world, subject)) for subject in subjects]
                    await asyncio.wait(acts)
                for act in acts:
                    failure = act.exception()
                    assert failure is None or (isinstance(failure, StoreUnavailableError) and failure.outcome_unknown)
                    assert plan.is_reached or failure is None
                await world.settled()
                for subject in subjects:
                    await call.again(world, subject)
        await compare(admin)


@pytest.mark.parametrize("name", ["generate", "open", "derive"])
async def test_secrets_of_results_that_come_late_are_wiped(database_dsn, tmp_path, name):
    """Whatever secret a cancelled call would have returned is in memory no more."""
    call = CALLS[name]
    # The clock stands still: keys of a bucket that begins meanwhile would be counted among the call's.
    async with worlds(database_dsn, tmp_path, TurnableClock()) as world:
        await call.again(world, await call.prepare(world))
        for moment, at in itertools.product(Moment, range(1, 8)):
            subject = await call.prepare(world)
            await world.settled()
            before = live_secrets()
            plan = Plan(at, moment)
            task = asyncio.create_task(stepped(call.act(world, subject), plan))
            await asyncio.wait({task})
            assert plan.is_reached == task.cancelled()
            await world.settled()
            del task
            assert before == live_secrets(), (moment, at)


async def test_closing_may_be_cancelled_and_called_again(database_dsn, tmp_path):
    """A close that is cancelled at any suspension can be called again, and then everything is closed."""
    for plan in plans(Moment.BEGIN):
        manager = make_manager(database_dsn, tmp_path)
        await manager.open()
        pool = engine_of(manager).foundation.store._pool
        task = asyncio.create_task(stepped(manager.close(), plan))
        await asyncio.wait({task})
        await manager.close()
        assert pool._closed
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("qflare-")]
