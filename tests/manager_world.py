"""Managers over a real database, a clock to turn, and devices that speak to them without sockets."""

import asyncio
import inspect
import itertools
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from qflare.clock import SystemClock
from qflare.device import AsyncDevice, Device, Step
from qflare.errors import RefusedError
from qflare.manager.settings import ManagerSettings
from qflare.model.ids import DEFAULT_TENANT
from qflare.protocol import wire
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.chain import SessionChain
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.envelope import encode_envelope, split_envelope
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.identity import decode_identity
from qflare.protocol.offer_device import accept_offer, offer_bucket
from qflare.protocol.record import KIND_CONTROL, new_header, open_record, seal_record
from qflare.protocol.wire import DIRECTION_TO_SERVER
from qflare.service.assembly import Place
from qflare.service.key_manager import QuantumKeyManager
from qflare.testing import MemoryKeeper, MemoryStore, TurnableClock

KEEPERS = WeakKeyDictionary()
"""The keeper of each memory store."""

NAMES = (f"device-{number}" for number in itertools.count())


TurnedClock = TurnableClock
"""The clock that users' tests turn."""


def settings(folder, **changes):
    """Settings whose keeper leaves nothing outside the test's folder."""
    # Without detection, whose incidents would be events among those that a test counts.
    values = {
        "keeper_dir": str(folder / "volatile"),
        "store_timeout_s": 20.0,
        "device_cached_s": 10,
        "detection": False,
    }
    return ManagerSettings(**(values | changes))


async def room_in_bucket(seconds):
    """Wait, where the wall clock's bucket ends within *seconds*, for the next one; for what reads that clock."""
    width_s = ManagerSettings().bucket_width_s
    left_s = width_s - SystemClock().now_ms() / 1000 % width_s
    if left_s < seconds:
        await asyncio.sleep(left_s)


def make_manager(database, folder, *, clock=None, tenant=DEFAULT_TENANT, **changes):
    """A manager that is not open yet; those of one folder share its keeper. *database* is a dsn or a memory store."""
    config = settings(folder, **changes)
    if isinstance(database, MemoryStore):
        place = Place(database=None, data_dir=None, keeper=KEEPERS.setdefault(database, MemoryKeeper()), store=database)
        return QuantumKeyManager.at(place, tenant=tenant, config=config, clock=clock)
    return QuantumKeyManager(database, data_dir=folder / "data", tenant=tenant, config=config, clock=clock)


@asynccontextmanager
async def managers(database, folder, count=1, *, clock=None, **changes):
    """Several managers over one database, opened one after the other."""
    opened = []
    try:
        for _ in range(count):
            manager = make_manager(database, folder, clock=clock, **changes)
            opened.append(manager)
            await manager.open()
        yield opened
    finally:
        for manager in opened:
            await manager.close()


class Edge:
    """A device: its keys, what it pinned, and its sessions."""

    def __init__(self, pair, *, psk=None):
        self.pair = pair
        self.device = pair.identity(psk=psk)
        self.identity = None
        self.log_mark = None
        self.sessions = {}

    @classmethod
    async def provision(cls, manager, name=None, *, psk=None):
        """Have the manager make the device's keys."""
        name = name or next(NAMES)
        edge = cls(await manager.generate_device_keypair(name), psk=psk)
        if psk is not None:
            await manager.set_device_psk(name, psk)
        return edge

    @property
    def name(self):
        return self.pair.device_id

    async def trust(self, manager):
        """Fetch and check identity and CERT once."""
        if self.identity is None:
            self.identity = decode_identity(await manager.identity(), server_id=self.device.server_id)
        return self.identity

    async def announcement(self, manager, which="current"):
        """Fetch and check an announcement."""
        identity = await self.trust(manager)
        return verify_announcement(await manager.announcement(which), identity.certificate)

    async def hello(self, manager):
        """Go as far as M3; return what is pending."""
        announcement = await self.announcement(manager)
        started = start_hello(self.device, announcement)
        return accept_hello(started, await manager.answer_hello(started.message), self.device)

    async def answer(self, manager, offer=None):
        """Take an OFFER and go as far as ANSWER; return what is pending."""
        if offer is None:
            offer = (await manager.initiate_temporal_key_exchange(self.name, self.pair.public_key)).offer
        announcement = await self.announcement(manager, offer_bucket(offer))
        return accept_offer(offer, self.device, announcement, pending={})

    def accept(self, pending, m4):
        """Take M4 and keep the session."""
        established = accept_confirmation(pending, m4, self.identity, self.device, log_mark=self.log_mark)
        self.log_mark = established.log_mark
        chain = SessionChain.begin(
            established.chain_key, sid=established.sid, start=established.start, lifetime=established.lifetime
        )
        self.sessions[established.sid] = (established, chain)
        return established

    async def connect(self, manager, *, form="hello", other=None):
        """Agree on a session; *other* finishes what *manager* began."""
        pending = await (self.hello(manager) if form == "hello" else self.answer(manager))
        done = await (other or manager).confirm(pending.message)
        return self.accept(pending, done.confirmation)

    def chain(self, sid):
        return self.sessions[sid][1]

    def seal(self, sid, plaintext, *, bucket=None, aad=b"", kind=0):
        """Seal a record to the server."""
        chain = self.chain(sid)
        header = new_header(
            sid=sid, bucket=chain.start if bucket is None else bucket, direction=DIRECTION_TO_SERVER, kind=kind
        )
        with chain.message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
            return seal_record(key, header, plaintext, aad=aad)

    def open(self, sid, record, header, *, aad=b""):
        """Open a record of the server."""
        with self.chain(sid).message_key(header.bucket, direction=header.direction, purpose=header.purpose) as key:
            return open_record(key, record, aad=aad)


async def settle(manager):
    """Wait until events about refusals are in the log."""
    await manager._opening.value.foundation.refusals.settled()


def engine_of(manager):
    """Return a manager's inside."""
    return manager._opening.value


class Link:
    """A transport between `AsyncDevice` and a manager in the same process; `alter` sees every answer on its way."""

    def __init__(self, manager):
        self.manager = manager
        self.steps = []
        self.alter = lambda _step, answer: answer

    async def exchange(self, step, message):
        self.steps.append(step)
        try:
            answer = await self._answer(step, bytes(message))
        except RefusedError:
            answer = wire.REFUSED
        answer = self.alter(step, answer)
        return await answer if inspect.isawaitable(answer) else answer

    async def close(self):
        """Nothing is held."""

    async def _answer(self, step, message):  # noqa: PLR0911 - one answer a step
        manager = self.manager
        match step:
            case Step.IDENTITY:
                return await manager.identity()
            case Step.ANNOUNCEMENT:
                return await manager.announcement(int(message) if message.isdigit() else message.decode())
            case Step.HELLO:
                return await manager.answer_hello(message)
            case Step.OFFER:
                return await manager.offer_for(message[:32], tenant_id=message[32:])
            case Step.CONFIRM:
                return (await manager.confirm(message)).confirmation
            case Step.ENROL:
                return await manager.answer_enrolment(message)
            case Step.RECORD:
                aad, record = split_envelope(message)
                opened = await manager.open_record(record, aad=aad)
                with opened.plaintext as plaintext:
                    if opened.header.kind == KIND_CONTROL:
                        return encode_envelope(b"", await manager.answer_control(opened))
                    reply = await manager.seal_record(opened.session.sid, plaintext.view().tobytes()[::-1])
                return encode_envelope(b"", reply)
        raise AssertionError(step)


async def make_device(manager, name=None, *, state=None, link=None):
    """A real `AsyncDevice` of a manager, with its link."""
    pair = await manager.generate_device_keypair(name or next(NAMES))
    device = Device.from_identity(pair.identity(), served=await manager.identity(), state=state)
    return AsyncDevice(device, link or Link(manager))
