"""
The turn (PROTOCOL R8): every live session's chain key is stepped into the current bucket before the last KEK dies.

One worker leads, step by step; the others wait and lead on where it ends.  A step is one transaction over a range of
session ids and inserts what is absent, so that a leader may die at any point and nothing is lost or doubled.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.manager.chains import CHAIN_KEY_BYTES, chain_places
from qflare.manager.deadline import Deadline
from qflare.manager.pages import seal_owners, unseal_page
from qflare.manager.sealing import unseal_block
from qflare.model.histogram import SECONDS, Histogram
from qflare.model.turn import TurnedRange, TurnStage
from qflare.primitives.kdf import chain_step_many
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.offload import Offload
    from qflare.manager.settings import ManagerSettings
    from qflare.model.session_ports import SessionStore
    from qflare.model.turn import ChainOwner, TurnRange

_log = logging.getLogger("qflare.manager")

RANGE_SESSIONS: Final = 16_384
"""About how many sessions one step of a turn carries: what a leader's end undoes, and what is in memory at a time."""
_BATCH_MAX: Final = 32_768
"""Most chain keys of one C call; a range is larger only if session ids are not spread evenly."""
_FOLLOW_S: Final = 0.1
_JITTER: Final = 1 << 16


class Turns:
    """Steps every live session's chain key into the current bucket, as leader or behind one."""

    def __init__(self, *, store: SessionStore, buckets: Buckets, offload: Offload, settings: ManagerSettings) -> None:
        """Work on *store* with the keys of *buckets*."""
        self._store = store
        self._buckets = buckets
        self._offload = offload
        self._page = settings.turn_page
        self._deadline = Deadline(settings.store_timeout_s)
        self.steps_s = Histogram(SECONDS)
        """How long each step took that this worker led, seconds."""

    async def sweep(self, bucket: int) -> bool:
        """
        Carry what rests in the bucket before *bucket*; return whether all of it is, by whatever worker.

        False where the next bucket has begun meanwhile: then that is to be swept into.
        """
        return await self._steps(bucket, is_late=False)

    async def settle(self, bucket: int) -> bool:
        """
        Carry what was written into the bucket before *bucket* since that was swept; return whether all of it is.

        False where the next bucket has begun meanwhile, as it may between a look at the clock and this: then a sweep
        comes before anything can be settled.

        Raises:
            StoreUnavailableError: somebody still writes into it; to be tried again.
        """
        # Exclusive for an instant, not while keys are stepped: whoever has the current bucket carries by itself what
        # it still writes there (Handshakes), and must not wait for us.
        await self._deadline.of(self._store.await_writers(bucket - 1))
        return await self._steps(bucket, is_late=True)

    async def _steps(self, bucket: int, *, is_late: bool) -> bool:
        while await self._buckets.refresh() == bucket:
            # A lease a step: a long turn must not keep old keys in memory after their end.
            with self._buckets.lend() as ring:
                if not ring.has(bucket - 1):
                    return True
                began_s = asyncio.get_running_loop().time()
                stage = await self._deadline.of(
                    self._store.step_turn(
                        bucket,
                        is_late=is_late,
                        range_size=RANGE_SESSIONS,
                        # What is late gets rows: its pages would overlap those of the first sweep, and hide them.
                        work=partial(self._step, ring, bucket, page_max=1 if is_late else self._page),
                    )
                )
            if stage in (TurnStage.DONE, TurnStage.OVER):
                return True
            if stage is TurnStage.EARLY:
                # Whoever is to sweep first may be who called: waiting here would be for ever.
                return False
            if stage is TurnStage.LED:
                self.steps_s.observe(asyncio.get_running_loop().time() - began_s)
            else:
                await asyncio.sleep(_FOLLOW_S * (1 + secrets.randbelow(_JITTER) / _JITTER))
        return False

    async def _step(self, ring: Ring, bucket: int, found: TurnRange, *, page_max: int) -> TurnedRange:
        return await self._offload.run(partial(step_range, ring, bucket, found, page_max=page_max))


def step_range(ring: Ring, bucket: int, found: TurnRange, *, page_max: int) -> TurnedRange:
    """
    Step a range of chain keys of ``bucket - 1`` and seal them for *bucket*.

    Args:
        ring: Holds the KEKs of both.
        bucket: The new bucket.
        found: What rests in the old one; what the new one holds already is left out.
        page_max: Most chain keys of a page.
    """
    with ExitStack() as opened:
        rows = _open_range(ring, bucket, found, opened)
        for owner in found.turned:
            rows.pop(owner, None)
        if not rows:
            return TurnedRange()
        owners = sorted(rows)
        with SecretBytes.zeros(len(owners) * CHAIN_KEY_BYTES) as keys:
            view = keys.view()
            for place, owner in enumerate(owners):
                view[place * CHAIN_KEY_BYTES : (place + 1) * CHAIN_KEY_BYTES] = rows[owner]
            _step_in_place(view, owners, bucket)
            return seal_owners(ring, bucket, owners, keys, page_max=page_max)


def _open_range(ring: Ring, bucket: int, found: TurnRange, opened: ExitStack) -> dict[ChainOwner, memoryview]:
    """Open what a range holds; *opened* wipes it. A key that stands twice is the same one, and is taken once."""
    rows: dict[ChainOwner, memoryview] = {}
    lost = 0
    if found.chains:
        keys, has_opened = unseal_block(
            ring.kek(bucket - 1),
            [sealed for _, sealed in found.chains],
            chain_places(bucket - 1, [owner for owner, _ in found.chains]),
            CHAIN_KEY_BYTES,
        )
        opened.callback(keys.wipe)
        view = keys.view()
        lost += has_opened.count(False)
        for place, (owner, _) in enumerate(found.chains):
            if has_opened[place]:
                rows[owner] = view[place * CHAIN_KEY_BYTES : (place + 1) * CHAIN_KEY_BYTES]
    for page, places in found.pages:
        page_keys = unseal_page(ring, page)
        if page_keys is None:
            lost += len(places)
            continue
        opened.callback(page_keys.wipe)
        view = page_keys.view()
        for place in places:
            row = view[place * CHAIN_KEY_BYTES : (place + 1) * CHAIN_KEY_BYTES]
            rows.setdefault((page.tenant_id, page.sids[place], page.epochs[place]), row)
    if lost:
        _log.warning("turn: %d chain keys do not open where they rest and are not carried on", lost)
    return rows


def _step_in_place(view: memoryview, owners: Sequence[ChainOwner], bucket: int) -> None:
    """Replace chain keys of ``bucket - 1`` by those of *bucket*."""
    for first in range(0, len(owners), _BATCH_MAX):
        part = owners[first : first + _BATCH_MAX]
        rows = view[first * CHAIN_KEY_BYTES : (first + len(part)) * CHAIN_KEY_BYTES]
        with chain_step_many(rows, b"".join(sid for _, sid, _ in part), bucket) as stepped:
            rows[:] = stepped.view()
