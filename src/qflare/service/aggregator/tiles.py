"""
The log for witnesses: its latest signed head and the hashes of its tree, as C2SP's tlog-checkpoint and tlog-tiles say.

Hashes only.  Entry bundles are not served: what an entry holds is its tenant's, and who may read it asks the database
or gets an export.  Leaf hashes tell nothing: every leaf is salted or blinded (docs/audit.md).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from qflare.errors import AuthenticationError, DecodeError, KeyNotFoundError
from qflare.protocol.checkpoint import encode_note
from qflare.protocol.log_key import LogKey, verify_under
from qflare.protocol.tile import WIDTH, Tile, decode_tile_path
from qflare.service.aggregator.answer import Answer, immutable, note

if TYPE_CHECKING:
    from starlette.types import Scope

    from qflare.clock import Clock
    from qflare.model.event import SignedCheckpoint
    from qflare.service.key_manager import QuantumKeyManager

_HEAD_AGE_NS: Final = 1_000_000_000
"""The database is asked for the latest signed head at most so often."""
_TILES_MAX: Final = 64
"""Full tiles that are kept, of 8 KiB each."""


class Tiles:
    """What one manager's log shows everybody."""

    def __init__(self, manager: QuantumKeyManager, clock: Clock) -> None:
        """Serve for *manager*; *clock* only says when to look for a newer head."""
        self._manager = manager
        self._clock = clock
        self._head: SignedCheckpoint | None = None
        self._note = ""
        self._looked_ns: int | None = None
        self._kept: OrderedDict[Tile, bytes] = OrderedDict()
        self._looking = asyncio.Lock()

    async def checkpoint(self, _scope: Scope) -> Answer:
        """Return the latest signed head as a signed note."""
        await self._look()
        return note(self._note)

    async def tile(self, scope: Scope) -> Answer:
        """Return the tile that the path names, if the latest signed head covers it."""
        try:
            tile = decode_tile_path(f"tile/{scope['path_params']['path']}")
        except DecodeError:
            raise KeyNotFoundError("there is no such tile") from None
        hashes = self._kept.get(tile)
        if hashes is None:
            head = self._head
            if head is None or not tile.is_in(head.size):
                # Another worker may show a head already that this one has not looked at.
                head = await self._look(age_ns=0)
            if not tile.is_in(head.size):
                raise KeyNotFoundError("there is no such tile")
            hashes = await self._manager.log_hashes(tile.nodes)
            if tile.width == WIDTH:
                self._kept[tile] = hashes
                while len(self._kept) > _TILES_MAX:
                    self._kept.popitem(last=False)
        return immutable(hashes)

    async def _look(self, *, age_ns: int = _HEAD_AGE_NS) -> SignedCheckpoint:
        after_ns = self._clock.monotonic_ns() - age_ns
        async with self._looking:  # one question for all who ask at once
            if self._head is not None and self._looked_ns is not None and self._looked_ns > after_ns:
                return self._head
            now_ns = self._clock.monotonic_ns()
            found = await self._manager.log_checkpoint()
            if found is None:
                raise KeyNotFoundError("the log has no signed head yet")
            if self._head is None or found.size > self._head.size:
                self._note = _note_of(found, await self._manager.log_keys())
                self._head = found
            self._looked_ns = now_ns
        return self._head


def _note_of(head: SignedCheckpoint, keys: tuple[LogKey, ...]) -> str:
    try:
        key = verify_under(keys, head)
    except AuthenticationError:
        raise KeyNotFoundError("the stored head is not signed by a key of this log") from None
    return encode_note(key.origin, key.key, head)
