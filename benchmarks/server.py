"""A server to be measured: a manager over a PostgreSQL of its own, on this machine's disk, and a fleet of devices."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import uvloop
from raw import FOLDER

from qflare.clock import Clock, SystemClock
from qflare.errors import QflareError
from qflare.manager.settings import ManagerSettings
from qflare.protocol.announcement import Announcement, verify_announcement
from qflare.protocol.device_identity import DeviceIdentity
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.identity import decode_identity
from qflare.protocol.offer_device import accept_offer
from qflare.service.collector import settle_collector
from qflare.service.key_manager import QuantumKeyManager
from qflare.stores.embedded import open_embedded

BUCKET_WIDTHS_S = (86_400, 80_000, 70_000)
"""Wide, and the one whose end is farthest away is taken, so that no bucket turns in the middle of a figure."""
_NS_FIELD = 0
_ENDED_FIELDS = slice(13, 15)
"""cutime and cstime of proc_pid_stat(5), counted from the state on."""


Opening = Callable[[Path], AbstractAsyncContextManager]
"""Runs a PostgreSQL in a folder; what it yields has a `dsn`."""


@dataclass(slots=True)
class Cost:
    """What a stretch of work used."""

    wall_s: float
    worker_s: float
    """CPU of this process, all threads."""
    postgres_s: float
    """CPU of every process of the PostgreSQL server."""


class Server:
    """The manager under measurement; synchronous on the outside, on uvloop inside, as the workers are."""

    def __init__(
        self, *, devices: int, clock: Clock | None = None, opening: Opening | None = None, **changes: int
    ) -> None:
        """
        Open PostgreSQL and the manager, and register the fleet.

        Args:
            devices: How many.
            clock: Of the manager; the system's by default.
            opening: Runs another PostgreSQL in a folder; the embedded one by default.
            changes: Of the manager's settings.
        """
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        FOLDER.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="data-", dir=FOLDER))
        self._stack = AsyncExitStack()
        self._clock = clock
        self._opening = opening
        self._changes = changes
        self.run(self._open(devices))

    def run(self, work: Coroutine):
        """Run a coroutine to its end."""
        # Not by Runner.run: to set its handler of SIGINT it makes the text of the task, and of all its results with
        # it, which took as long as 10 µs of each of 256 handshakes.
        return self._runner.get_loop().run_until_complete(work)

    def close(self) -> None:
        """Close the manager, stop PostgreSQL and remove its data."""
        self.run(self._stack.aclose())
        self._runner.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- cost -------------------------------------------------------------------------------------

    def postgres_cpu_s(self) -> float:
        """Return the CPU that PostgreSQL's processes used since they started, those that have ended among them."""
        while True:
            try:
                live = sum(_cpu_ns(process_id) for process_id in self._postgres_processes())
            except (FileNotFoundError, ProcessLookupError):
                # A worker of autovacuum ended between the list and the look: now it is among the ended ones.
                continue
            return live / 1e9 + _ended_children_s(self._postmaster)

    def cost_of(self, work: Coroutine) -> tuple[Cost, object]:
        """Run *work* and return what it used, and its result."""
        try:
            postgres, worker, wall = self.postgres_cpu_s(), time.process_time(), time.perf_counter()
        except BaseException:
            work.close()
            raise
        result = self.run(work)
        wall_s, worker_s = time.perf_counter() - wall, time.process_time() - worker
        return Cost(wall_s, worker_s, self.postgres_cpu_s() - postgres), result

    def _postgres_processes(self) -> list[int]:
        # Backends live as long as the pool's connections do; looking for new ones each time costs a millisecond.
        children = Path(f"/proc/{self._postmaster}/task/{self._postmaster}/children").read_text(encoding="ascii")
        return [self._postmaster, *map(int, children.split())]

    # --- opening ----------------------------------------------------------------------------------

    async def _open(self, devices: int) -> None:
        opening = await open_embedded(self.folder) if self._opening is None else self._opening(self.folder)
        self.dsn = (await self._stack.enter_async_context(opening)).dsn
        self._postmaster = int(next(self.folder.rglob("postmaster.pid")).read_text().split("\n", 1)[0])
        now_s = SystemClock().now_s()
        # Both ends of a width never come within the same hour: their distance is checked, not hoped for.
        width_s = max(BUCKET_WIDTHS_S, key=lambda width_s: width_s - now_s % width_s)
        settings = ManagerSettings(bucket_width_s=width_s, **self._changes)
        self.settings = settings
        self.width_s = width_s
        self.manager = await self._stack.enter_async_context(
            QuantumKeyManager(self.dsn, data_dir=self.folder, config=settings, clock=self._clock)
        )
        self.admin = await asyncpg.connect(self.dsn)
        self._stack.push_async_callback(self.admin.close)
        self.postgres_version = await self.admin.fetchval("SHOW server_version")
        durability = {name: await self.admin.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
        if durability != {"fsync": "on", "synchronous_commit": "on"}:
            raise RuntimeError(f"the figures are about durable commits, PostgreSQL says {durability}")
        identity = decode_identity(await self.manager.identity(), server_id=await self.manager.server_id())
        self.announcement: Announcement = verify_announcement(
            await self.manager.announcement("current"), identity.certificate
        )
        self.devices: list[DeviceIdentity] = []
        for first in range(0, devices, 512):
            names = [f"bench-{number}" for number in range(first, min(first + 512, devices))]
            pairs = good(await self.manager.generate_device_keypairs_many(names))
            self.devices += [pair.identity() for pair in pairs]
        # As after a first ANSWER, which is once in a key's life: the figures are about the ones that follow.
        await self.admin.execute("UPDATE qflare.device_key SET state = 'active' WHERE state = 'pre-active'")
        self._next = 0
        settle_collector()  # as the workers do

    # --- the devices' side, made ahead ------------------------------------------------------------

    def take_devices(self, count: int) -> list[DeviceIdentity]:
        """Return the next *count* devices of the fleet, from its beginning again at its end."""
        taken = [self.devices[(self._next + number) % len(self.devices)] for number in range(count)]
        self._next += count
        return taken

    def hellos(self, devices: list[DeviceIdentity]) -> list:
        """M1 of each device, with what it waits for."""
        return [start_hello(device, self.announcement) for device in devices]

    def finishes(self, pending: list, m2s: list[bytes], devices: list[DeviceIdentity]) -> list[bytes]:
        """M3 of each device."""
        return [
            accept_hello(hello, m2, device).message for hello, m2, device in zip(pending, m2s, devices, strict=True)
        ]

    def answers(self, offers: list[bytes], devices: list[DeviceIdentity]) -> list[bytes]:
        """ANSWER of each device."""
        return [
            accept_offer(offer, device, self.announcement, pending={}).message
            for offer, device in zip(offers, devices, strict=True)
        ]

    def m3s(self, count: int) -> list[bytes]:
        """As many M3s, made ahead."""
        devices = self.take_devices(count)
        pending = self.hellos(devices)
        m2s = good(self.run(self.manager.answer_hellos_many([hello.message for hello in pending])))
        return self.finishes(pending, list(m2s), devices)


def good(results):
    """Return *results*, none of which may be an error: a figure over failures is none."""
    for result in results:
        if isinstance(result, QflareError):
            raise result
    return results


def _cpu_ns(process_id: int) -> float:
    # Nanoseconds on a processor; /proc/…/stat counts in hundredths of a second.
    return float(Path(f"/proc/{process_id}/schedstat").read_text(encoding="ascii").split()[_NS_FIELD])


def _ended_children_s(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[_ENDED_FIELDS])) / os.sysconf("SC_CLK_TCK")
