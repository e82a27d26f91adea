"""Devices registered for a load, and their messages, made ahead in threads while nothing is measured."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from qflare.errors import QflareError, UsageError
from qflare.protocol.announcement import Announcement, verify_announcement
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.identity import ServerIdentity, decode_identity
from qflare.protocol.offer_device import accept_offer, offer_bucket
from qflare.service.arguments import raised

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.protocol.pending import PendingConfirmation, PendingHello
    from qflare.service.key_manager import QuantumKeyManager

FORMS: Final = ("hello", "offer")
_REGISTERED_AT_ONCE: Final = 256
_THREADS: Final = 2
_CHECKED_MAX: Final = 64
"""Confirmations of a stretch that are checked as a device checks them."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class Begun:
    """Handshakes whose first message was made."""

    devices: list[DeviceIdentity]
    bodies: list[bytes]
    pending: list[PendingHello] = field(default_factory=list)
    """In the hello form."""


@dataclass(slots=True)
class Answered:
    """Handshakes whose last message was made."""

    devices: list[DeviceIdentity]
    pending: list[PendingConfirmation]

    @property
    def bodies(self) -> list[bytes]:
        """Return M3 or ANSWER of each."""
        return [each.message for each in self.pending]


class Fleet:
    """The devices' side of the load; made by `register_fleet`."""

    def __init__(self, manager: QuantumKeyManager, devices: Sequence[DeviceIdentity], identity: ServerIdentity) -> None:
        """Own *devices*."""
        self._manager = manager
        self._devices = deque(devices)
        self._identity = identity
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="qflare-load")

    def __len__(self) -> int:
        """Return how many devices there are."""
        return len(self._devices)

    async def begin(self, form: str, count: int) -> Begun:
        """Make the first message of *count* handshakes, by as many devices in turn."""
        devices = [self._next() for _ in range(count)]
        if form == "offer":
            return Begun(devices, [device.ref + device.tenant_id for device in devices])
        announcement = await self._announcement("current")
        pending = await self._each(lambda device: start_hello(device, announcement), devices)
        return Begun(devices, [hello.message for hello in pending], pending)

    async def answer(self, form: str, begun: Begun, answers: Sequence[bytes | None]) -> Answered:
        """Make the last message of the handshakes that were answered."""
        announcements = {bucket: await self._announcement(bucket) for bucket in _buckets(form, answers)}

        def one(number: int) -> PendingConfirmation:
            answer, device = answers[number], begun.devices[number]
            assert answer is not None  # noqa: S101 - chosen below
            if form == "hello":
                with begun.pending[number] as hello:
                    return accept_hello(hello, answer, device)
            return accept_offer(answer, device, announcements[offer_bucket(answer)])

        good = [number for number, answer in enumerate(answers) if answer is not None]
        try:
            return Answered([begun.devices[number] for number in good], await self._each(one, good))
        finally:
            for hello in begun.pending:  # those that nobody answered too
                hello.wipe()

    async def check(self, answered: Answered, confirmations: Sequence[bytes | None]) -> int:
        """
        Check a sample of M4s as a device does, wipe all, and return how many were checked.

        Raises:
            AuthenticationError: one of them is no confirmation: whatever was measured, it were no handshakes.
        """
        good = [number for number, m4 in enumerate(confirmations) if m4 is not None]
        for number in good[:: max(1, len(good) // _CHECKED_MAX)]:
            m4 = confirmations[number]
            assert m4 is not None  # noqa: S101 - chosen above
            established = accept_confirmation(
                answered.pending[number], m4, self._identity, answered.devices[number], log_mark=None
            )
            established.wipe()
        for each in answered.pending:
            each.wipe()
        return min(len(good), _CHECKED_MAX)

    def close(self) -> None:
        """Wipe the devices' keys."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        for device in self._devices:
            device.wipe()

    def _next(self) -> DeviceIdentity:
        device = self._devices[0]
        self._devices.rotate(-1)
        return device

    async def _announcement(self, which: str | int) -> Announcement:
        return verify_announcement(await self._manager.announcement(which), self._identity.certificate)

    async def _each(self, work: Callable[[T], R], values: Sequence[T]) -> list[R]:
        """Run *work* on every value, in parts, in the threads."""
        loop = asyncio.get_running_loop()
        size = max(1, -(-len(values) // (4 * _THREADS)))
        parts = [values[first : first + size] for first in range(0, len(values), size)]
        done = await asyncio.gather(
            *(loop.run_in_executor(self._executor, partial(_all, work, part)) for part in parts)
        )
        return [result for part in done for result in part]


async def register_fleet(manager: QuantumKeyManager, count: int, *, prefix: str) -> Fleet:
    """
    Register *count* devices named after *prefix*, both key pairs made for them (E5).

    Raises:
        UsageError: *count* is below 1.
        QflareError: one could not be registered.
    """
    if count < 1:
        raise UsageError(f"a load needs at least one device, got {count}")
    devices: list[DeviceIdentity] = []
    try:
        for first in range(0, count, _REGISTERED_AT_ONCE):
            names = [f"{prefix}-{number}" for number in range(first, min(first + _REGISTERED_AT_ONCE, count))]
            made = await manager.generate_device_keypairs_many(names)
            devices += [pair.identity() for pair in made if not isinstance(pair, QflareError)]
            for pair in made:
                raised(pair)
        identity = decode_identity(await manager.identity(), server_id=await manager.server_id())
    except BaseException:
        for device in devices:
            device.wipe()
        raise
    return Fleet(manager, devices, identity)


def _all(work: Callable[[T], R], values: Sequence[T]) -> list[R]:
    return [work(value) for value in values]


def _buckets(form: str, answers: Sequence[bytes | None]) -> set[int]:
    return {offer_bucket(answer) for answer in answers if answer is not None} if form == "offer" else set()
