"""
Keeps a worker from remembering what changed elsewhere: revoked devices, ended sessions, rotated keys, an early turn.

Whether a session lives is asked of the database each time it matters, so that nobody is served who was revoked; what
goes on here is that keys leave this worker's memory and that whoever waits hears of it.  Three ways lead to it, each
alone enough: a message with the commit (milliseconds), a look at the database twice a second (within `change_poll_s`),
and the bucket's turn, at which everything remembered is dropped if the database cannot be asked.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError
from qflare.manager.deadline import Deadline

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.manager.background import Background
    from qflare.manager.buckets import Buckets
    from qflare.manager.credentials import Credentials
    from qflare.manager.sessions import Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.model.change import Change
    from qflare.model.change_ports import ChangeStore

_log = logging.getLogger("qflare.manager")

PAGE_MAX: Final = 4096
"""Changes read in one look; beyond it everything remembered is dropped, which costs less than telling them apart."""
_BACKOFF_MAX_S: Final = 30.0
_STALE_NS: Final = 3600 * 10**9
"""After so long without a look nothing remembered is relied on; the database keeps changes for a day."""
_JITTER: Final = 1 << 16


class Changes:
    """One worker's view of what changed."""

    def __init__(
        self,
        *,
        store: ChangeStore,
        sessions: Sessions,
        credentials: Credentials,
        buckets: Buckets,
        clock: Clock,
        settings: ManagerSettings,
    ) -> None:
        """Know of nothing yet; `open` sets the mark, `poll_on` and `listen` are the loops."""
        self._store = store
        self._sessions = sessions
        self._buckets = buckets
        self._width_s = settings.bucket_width_s
        self._credentials = credentials
        self._clock = clock
        self._poll_s = settings.change_poll_s
        self._deadline = Deadline(settings.store_timeout_s)
        self._mark: int | None = None
        self._looked_ns = 0
        self._is_turned = False
        self._due = asyncio.Event()
        self._news = asyncio.Event()
        self._failures = 0
        self.is_hearing = False
        """Whether messages are known to arrive; else polling alone is at work."""
        buckets.listeners.append(self._turn)

    async def open(self) -> None:
        """Remember from where on to look, before anything else is remembered."""
        page = await self._deadline.of(self._store.list_changes(None, limit=1))
        self._mark = page.mark
        self._looked_ns = self._clock.monotonic_ns()

    async def news(self) -> None:
        """Wait until something changes; what a waiter relies on must be looked at again then."""
        await self._news.wait()

    async def poll(self) -> None:
        """
        Look for changes and forget what changed.

        Raises:
            StoreUnavailableError: the database did not answer.
        """
        page = await self._deadline.of(self._store.list_changes(self._mark, limit=PAGE_MAX))
        now_ns = self._clock.monotonic_ns()
        is_stale = now_ns - self._looked_ns > _STALE_NS
        self._mark, self._looked_ns = page.mark, now_ns
        if page.is_cut or is_stale:
            self.forget_all()
        else:
            for change in page.changes:
                self._forget(change)
            if page.changes:
                self._tell()
        await self._follow(page.bucket)

    async def _follow(self, bucket: int) -> None:
        """Turn to *bucket* now if it was begun early: else the clock's own look is soon enough, and is spread."""
        if bucket > self._buckets.current and bucket > self._clock.now_s() // self._width_s:
            try:
                await self._buckets.follow()
            except QflareError as failure:
                # The worker's care tries it again, and says so.
                _log.debug("bucket %d was not entered (%s)", bucket, type(failure).__name__)

    async def poll_on(self, background: Background) -> None:
        """Look again and again; at a bucket's turn drop everything if the database cannot be asked."""
        while not background.stop.is_set():
            self._due.clear()
            was_turned = self._is_turned
            try:
                await self.poll()
            except QflareError:
                if was_turned:
                    _log.warning("changes could not be read at a bucket's turn: what was remembered is dropped")
                    self.forget_all()
            else:
                if was_turned:
                    self._is_turned = False
                    await self._drop()
            try:
                async with asyncio.timeout(self._poll_s):
                    await background.pause_until(self._due)
            except TimeoutError:
                continue

    async def listen(self, background: Background) -> None:
        """Hear of changes as they are committed; after a failure connect again, later and later."""
        listener = self._store.listener()
        if listener is None:
            return
        while not background.stop.is_set():
            try:
                await listener.listen(self._hear)
            except QflareError as failure:
                if self.is_hearing or self._failures == 0:
                    _log.info("changes are polled every %g s: %s", self._poll_s, failure)
            finally:
                self.is_hearing = False
                self._tell()
            self._failures += 1
            # What was told between the last message and now is found by looking.
            self._due.set()
            jitter = 0.5 + secrets.randbelow(_JITTER) / _JITTER
            await background.pause(min(_BACKOFF_MAX_S, 0.1 * 2 ** min(self._failures, 10)) * jitter)

    def forget_all(self) -> None:
        """Drop everything remembered of devices and sessions."""
        # Not wiped: most of these sessions live on, and a record of theirs that is under way must not be refused.
        self._sessions.renew_all()
        self._credentials.forget_all()
        self._tell()

    def _turn(self, _bucket: int) -> None:
        self._is_turned = True
        self._due.set()

    def _hear(self, change: Change | None) -> None:
        if change is None:
            if not self.is_hearing:
                self.is_hearing = True
                self._failures = 0
                # What was committed before it began to hear.
                self._due.set()
                self._tell()
            return
        if change.bucket is not None:
            # Anybody who may connect can send a message: only the database's own word turns a bucket.
            self._due.set()
            return
        self._forget(change)
        self._tell()

    def _forget(self, change: Change) -> None:
        # A device's sessions need no search: each one that ended is a change of its own, in the same transaction.
        if change.sid is not None:
            self._sessions.forget(change.sid)
        if change.ref is not None:
            self._credentials.forget(change.tenant_id, change.ref)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _drop(self) -> None:
        try:
            await self._deadline.of(self._store.drop_changes())
        except QflareError as failure:
            _log.info("old changes stay until the next turn: %s", failure)
