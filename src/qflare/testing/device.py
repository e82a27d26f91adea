"""A fake device: a real one of the protocol, whose way to the server and whose waits are in a test's hands."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from qflare.device import AsyncDevice, Device
from qflare.errors import QflareError
from qflare.testing.clock import TurnableClock
from qflare.testing.link import ManagerLink

if TYPE_CHECKING:
    from pathlib import Path

    from qflare.clock import Clock
    from qflare.service.aggregator.intake import OnRecord
    from qflare.service.key_manager import QuantumKeyManager


class FakeDevice(AsyncDevice):
    """
    An `AsyncDevice` that speaks to a manager in the same process; fake is its way there, real its cryptography.

    `link` has the knobs: `lose_messages`, `lose_answers`, `repeat`, `is_asleep`.  Its waits between attempts take no
    time: they are noted in `pauses`, and turn the clock if that is a `TurnableClock`, and the manager at each bucket's
    end: a server that does not look for a whole bucket loses its sessions (R8).
    """

    def __init__(self, device: Device, link: ManagerLink, *, clock: Clock | None = None) -> None:
        """Use `provisioned` or `enrolled` instead."""
        super().__init__(device, link)
        self.link = link
        self.pauses: list[float] = []
        """Seconds that it would have waited."""
        self._clock = clock

    @classmethod
    async def provisioned(
        cls,
        manager: QuantumKeyManager,
        device_id: str,
        *,
        clock: Clock | None = None,
        on_record: OnRecord | None = None,
    ) -> Self:
        """Have *manager* make the device's keys (PROTOCOL E5); its state is kept in memory alone."""
        pair = await manager.generate_device_keypair(device_id)
        device = Device.from_identity(pair.identity(), served=await manager.identity(), clock=clock)
        return cls(device, ManagerLink(manager, on_record=on_record), clock=clock)

    @classmethod
    async def enrolled(
        cls,
        manager: QuantumKeyManager,
        device_id: str,
        *,
        state: Path,
        clock: Clock | None = None,
        on_record: OnRecord | None = None,
    ) -> Self:
        """Enrol with a token of *manager*'s (PROTOCOL E2, E3) and keep the state in a new file, as a device does."""
        link = ManagerLink(manager, on_record=on_record)
        token = await manager.issue_enrolment_token(device_id)
        enrolled = await AsyncDevice.enrol(link, token, device_id=device_id, state=state, clock=clock)
        return cls(enrolled.device, link, clock=clock)

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        if isinstance(self._clock, TurnableClock):
            await self._pass(self._clock, seconds)
        await asyncio.sleep(0)

    async def _pass(self, clock: TurnableClock, seconds: float) -> None:
        """Let time pass for both sides: at each bucket's end the manager turns, as it does where time is real."""
        width_s = self.link.manager.settings.bucket_width_s
        while seconds > 0:
            step = min(seconds, width_s - clock.seconds % width_s)
            before = clock.now_s() // width_s
            clock.turn(step)
            seconds -= step
            if clock.now_s() // width_s != before:
                # What fails here fails again where the manager is asked.
                with contextlib.suppress(QflareError):
                    await self.link.manager.turn()
