"""What carries a fake device's messages to a manager of the same process, as well or badly as a test wants it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from qflare.device.transport import Step
from qflare.errors import ProtocolError, QflareError, RefusedError, StoreUnavailableError
from qflare.protocol import wire
from qflare.service.aggregator.intake import Intake, OnRecord
from qflare.service.aggregator.steps import Steps

if TYPE_CHECKING:
    from qflare.service.key_manager import QuantumKeyManager

_BATCH_MAX: Final = 64


class ManagerLink:
    """
    An `AsyncTransport` to a manager, by the very steps that `qflare.Aggregator` answers over HTTP.

    Args:
        manager: Whose sessions it serves.
        on_record: The application, as `Aggregator` takes it; without one records are opened, accepted and dropped.
    """

    def __init__(self, manager: QuantumKeyManager, *, on_record: OnRecord | None = None) -> None:
        self.lose_messages = 0
        """How many of the next messages never reach the manager."""
        self.lose_answers = 0
        """How many of the next answers never reach the device, although the manager did what was asked."""
        self.repeat = 0
        """How many of the next messages reach the manager twice; the device gets the first answer."""
        self.is_asleep = False
        """Whether nothing passes at all, as while a device sleeps or is offline."""
        self.carried: list[Step] = []
        """What the manager was asked, in order, repetitions included."""
        self.repeated_answers: list[bytes] = []
        """What the manager said to repeated messages."""
        self.manager = manager
        self._intake = Intake(manager, on_record=on_record, on_records=None, batch_max=_BATCH_MAX)
        steps = Steps(manager, self._intake, record_bytes_max=manager.settings.record_bytes_max, refusals=Counter())
        self._takers = {Step(route.name): route.take for route in steps.routes()}

    async def exchange(self, step: Step, message: bytes | bytearray) -> bytes:
        """
        Return the manager's answer.

        Raises:
            StoreUnavailableError: the link is asleep or loses this one, or the manager cannot take it now.
            ProtocolError: the application failed.
        """
        if self.is_asleep:
            raise StoreUnavailableError("the device is offline: its link is asleep")
        if self.lose_messages > 0:
            self.lose_messages -= 1
            raise StoreUnavailableError("the message was lost on its way, as the test asked")
        answer = await self._ask(step, bytes(message))
        if self.repeat > 0:
            self.repeat -= 1
            self.repeated_answers.append(await self._ask(step, bytes(message)))
        if self.lose_answers > 0:
            self.lose_answers -= 1
            raise StoreUnavailableError("the answer was lost on its way, as the test asked")
        return answer

    async def close(self) -> None:
        """Nothing is held."""

    async def _ask(self, step: Step, message: bytes) -> bytes:
        self.carried.append(step)
        try:
            if step is Step.IDENTITY:
                return await self.manager.identity()
            if step is Step.ANNOUNCEMENT:
                which = message.decode("ascii")
                return await self.manager.announcement(int(which) if which.isdecimal() else which)
            body = (await self._takers[step](message)).body
            return b"".join(body) if isinstance(body, tuple) else bytes(body)
        except RefusedError:
            return wire.REFUSED
        except StoreUnavailableError:
            raise
        except QflareError as error:
            raise ProtocolError(f"the server could not answer the {step.value}: {error}") from error
