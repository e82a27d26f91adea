"""What is answered is under a signed head: many who wait for one share a look at the log and a signature (H9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qflare.errors import QflareError, RestoredError, UncoveredError
from qflare.manager.batcher import Batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.model.event import SignedCheckpoint


class Cover:
    """Has the log signed as it stands for everybody whose change is committed; one look at a time."""

    def __init__(self, sign: Callable[[], Awaitable[SignedCheckpoint]], *, waiting_max: int) -> None:
        """Call *sign*, which looks at the log and returns a signed head of what it finds."""
        self._sign = sign
        # One flight: whoever comes while a look is under way waits for the next, which sees what they committed.
        self._looks: Batcher[None, None] = Batcher(
            "signed head", self._look, items_max=waiting_max, waiting_max=waiting_max
        )

    async def wait(self) -> None:
        """
        Return once a signed head covers all that was committed before this call.

        Raises:
            RestoredError: the database under this worker was restored.
            UncoveredError: none could be signed within the deadlines of store and signer.
        """
        try:
            await self._looks.submit(None)
        except RestoredError:
            raise
        except QflareError as failure:
            raise UncoveredError(str(failure)) from failure

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self._looks.close(timeout_s)

    async def _look(self, batch: Sequence[None]) -> list[None]:
        await self._sign()
        return [None] * len(batch)
