"""Observations of the real protocol: a manager over the memory store, real devices, a clock to turn, and who listens."""

import itertools
from contextlib import asynccontextmanager
from dataclasses import dataclass

from manager_world import engine_of, managers
from memory_world import make_memory_store
from qflare.device import Device
from qflare.errors import StoreUnavailableError
from qflare.manager.settings import ManagerSettings
from qflare.model.observation import Observation
from qflare.testing import FakeDevice, ManagerLink, MemoryKeeper, TurnableClock, memory_manager

START_S = 1_700_000_100
"""When recordings begin: in the first third of a bucket."""
NAMES = (f"recorded-{number}" for number in itertools.count())


@dataclass(frozen=True, slots=True)
class Episode:
    """What the manager's observer heard while something happened, from the first to the last second of it."""

    name: str
    span_s: int
    seen: tuple[tuple[int, Observation], ...]
    """Seconds since it began, and what was seen."""


class Recorder:
    """An observer that keeps what it hears."""

    def __init__(self, clock):
        self._clock = clock
        self.seen = []

    def note(self, observations):
        """Keep observations with their time."""
        at_s = self._clock.now_s()
        self.seen.extend((at_s, each) for each in observations)


class Stage:
    """Where episodes are played."""

    def __init__(self, manager, clock, recorder):
        self.manager = manager
        self.clock = clock
        self.devices = []
        """Devices of the present episode, closed at its end."""
        self._recorder = recorder

    async def turn(self, seconds):
        """Let time pass, and the buckets with it."""
        self.clock.turn(seconds)
        await self.manager.turn()

    async def record(self, episode):
        """Play an episode and return what was seen of it; what it needs before it begins is not part of it."""
        playing = episode(self)
        await anext(playing)
        began_s = self.clock.now_s()
        self._recorder.seen.clear()
        async for _ in playing:
            pass
        for device in self.devices:
            await device.close()
        self.devices.clear()
        seen = tuple((at_s - began_s, each) for at_s, each in self._recorder.seen)
        return Episode(episode.__name__, self.clock.now_s() - began_s, seen)


@asynccontextmanager
async def open_stage():
    """A manager of its own, whose own looks at the clock stay out of the way."""
    clock = TurnableClock(START_S)
    config = ManagerSettings(detection=False, tick_max_s=3600.0)
    store, keeper = make_memory_store(clock), MemoryKeeper()
    async with memory_manager(clock=clock, store=store, keeper=keeper, config=config) as manager:
        yield _stage(manager, clock)
    keeper.wipe()


@asynccontextmanager
async def open_database_stage(dsn, folder):
    """The same over PostgreSQL, whose own clock goes on: the recordings begin in the present bucket."""
    clock = TurnableClock()
    clock.turn(-(clock.now_s() % 300))
    async with managers(dsn, folder, clock=clock, detection=False, tick_max_s=3600.0) as (manager,):
        yield _stage(manager, clock)


def _stage(manager, clock):
    recorder = Recorder(clock)
    engine_of(manager).foundation.refusals.observations.observer = recorder
    return Stage(manager, clock, recorder)


class BadLink(ManagerLink):
    """A link that loses answers of chosen steps, and lets time pass before chosen ones."""

    def __init__(self, stage):
        super().__init__(stage.manager)
        self._stage = stage
        self.lose = []
        """Steps whose next answer is lost, in any order."""
        self.wait = {}
        """Seconds that pass before the next message of a step arrives."""

    async def exchange(self, step, message):
        """Carry a message, as badly as was asked."""
        if step in self.wait:
            await self._stage.turn(self.wait.pop(step))
        answer = await super().exchange(step, message)
        if step in self.lose:
            self.lose.remove(step)
            raise StoreUnavailableError("the answer was lost on its way, as the episode asked")
        return answer


async def new_device(stage, *, clock=None):
    """A real device on a bad link."""
    pair = await stage.manager.generate_device_keypair(next(NAMES))
    return await device_of(stage, pair, clock=clock)


async def device_of(stage, pair, *, clock=None):
    """A device with these keys and nothing else, as after a reboot without a state file."""
    its_clock = clock or stage.clock
    device = Device.from_identity(pair.identity(), served=await stage.manager.identity(), clock=its_clock)
    stage.devices.append(FakeDevice(device, BadLink(stage), clock=stage.clock))
    return stage.devices[-1]
