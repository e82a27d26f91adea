"""
High-water marks at work: an older copy of the database is found at the start, and no size of the log is signed twice.

The database's own marks go back with it when a copy is restored.  Those of the keeper do not: what was signed, which
bucket keys were made, and how far the database had come.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import EvidenceError, QflareError, RestoredError
from qflare.manager.deadline import Deadline
from qflare.model.mark import HighWaterMark
from qflare.protocol.log import nodes_for_frontier, root_from_nodes

if TYPE_CHECKING:
    from qflare.manager.background import Background
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.event import SignedCheckpoint
    from qflare.model.keeper_ports import Keeper
    from qflare.model.mark import Pulse
    from qflare.model.ports import Store

_log = logging.getLogger("qflare.manager")

STRIDE: Final = 4096
"""Sizes of the log that are reserved at a time: one durable write of the keeper for so many entries."""
_NOTE_EVERY_S: Final = 1.0


class Marks:
    """The keeper's high-water marks for one database; one for all operations of a worker."""

    def __init__(
        self, *, store: Store, keeper: Keeper, offload: Offload, server_id: bytes, settings: ManagerSettings
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._offload = offload
        self._server_id = server_id.hex()
        self._deadline = Deadline(settings.store_timeout_s)
        self._reserved = 0
        self._seen: Pulse | None = None
        """The last pulse of this worker's own."""
        self._failure: RestoredError | None = None
        self.lost = asyncio.Event()
        """Set when the database under this worker was restored: it must not go on."""

    def require_same(self) -> None:
        """Raise `RestoredError` once the database under this worker was found to be a restored one."""
        if self._failure is not None:
            raise RestoredError(self._failure.fact)

    async def check(self) -> None:
        """
        Compare the database with the marks, and note it where it is the first.

        Raises:
            RestoredError: the database is an older copy than the one that was in use.
            KeeperError: the marks cannot be read.
        """
        # The marks first: a database that grows meanwhile is never below what was noted before.
        mark = await self._offload.run(self._keeper.high_water)
        pulse = await self._deadline.of(self._store.pulse())
        if mark.is_accepting:
            raise RestoredError("accepting it was begun and not finished")
        if pulse < mark.pulse:
            raise RestoredError(f"it is of pulse {pulse}, pulse {mark.pulse} was seen")
        if mark.server_id == self._server_id:
            await self._compare_log(mark)
        serial = HighWaterMark(server_id=self._server_id, serial=await self._deadline.of(self._store.identity_serial()))
        await self._offload.run(partial(self._keeper.raise_high_water, serial))
        await self._note_pulse()

    async def _compare_log(self, mark: HighWaterMark) -> None:
        head = await self._deadline.of(self._store.log_head())
        if head.size < mark.log_size:
            raise RestoredError(f"its log has {head.size} entries, a head of {mark.log_size} was signed")
        if mark.log_size == 0:
            return
        try:
            nodes = await self._deadline.of(self._store.find_nodes(nodes_for_frontier(mark.log_size)))
            root = root_from_nodes(mark.log_size, nodes)
        except EvidenceError:
            root = b""
        if root != mark.log_root:
            raise RestoredError(f"the first {mark.log_size} entries of its log are not those that were signed")

    def reserve(self, size: int) -> None:
        """
        Make it durable that heads up to *size* may be signed; blocks, in a thread, before the signature.

        Raises:
            KeeperError: the marks cannot be written: nothing may be signed.
            RestoredError: the database under this worker was restored.
        """
        self.require_same()
        if size <= self._reserved:
            return
        wanted = HighWaterMark(server_id=self._server_id, log_reserved=size + STRIDE)
        self._reserved = self._keeper.raise_high_water(wanted).log_reserved

    async def note(self, checkpoint: SignedCheckpoint) -> None:
        """Make a signed head known outside the database."""
        mark = HighWaterMark(server_id=self._server_id, log_size=checkpoint.size, log_root=checkpoint.root)
        await self._offload.run(partial(self._keeper.raise_high_water, mark))

    async def watch(self, background: Background) -> None:
        """
        Count and note every second in which the database is used, until the manager closes.

        A count that did not rise, or another life, shows that the database was restored under this worker: its loops
        end, and `require_same` refuses whatever is asked of it.
        """
        while not background.stop.is_set():
            await background.pause(_NOTE_EVERY_S)
            try:
                await self._note_pulse()
            except RestoredError as failure:
                _log.critical("this worker ends: %s", failure)
                self._failure = failure
                self.lost.set()
                background.stop.set()
            except QflareError as failure:
                _log.warning("the database's pulse was not noted: %s", type(failure).__name__)

    async def _note_pulse(self) -> None:
        pulse = await self._deadline.of(self._store.raise_pulse())
        if self._seen is not None and not pulse.follows(self._seen):
            # Not told to the keeper: a count in another life is none of this one.
            raise RestoredError(
                f"it was restored under a running worker, which saw pulse {self._seen.count} and sees "
                + (f"{pulse.count}" if pulse.life == self._seen.life else "another life of it, which was accepted")
            )
        self._seen = pulse
        mark = HighWaterMark(server_id=self._server_id, pulse=pulse.count)
        await self._offload.run(partial(self._keeper.raise_high_water, mark))
