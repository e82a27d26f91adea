"""How far the memory store has come, and the end of what a restored copy must not bring back."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.model.ids import ID_BYTES
from qflare.model.mark import Pulse
from qflare.model.session import SessionState
from qflare.model.token import TokenState
from qflare.testing.memory.buckets import Buckets
from qflare.testing.memory.sessions import Sessions

if TYPE_CHECKING:
    from qflare.testing.memory.tables import Tables

_EVERY_BUCKET: Final = 2**62
"""Above any bucket."""


class Restores(Buckets, Sessions):
    """What crosses the tables."""

    async def pulse(self) -> int:
        """Return how often `raise_pulse` was called in this store's life."""
        async with self._transaction() as tables:
            return tables.pulse.value

    async def raise_pulse(self) -> Pulse:
        """Count on, and return the new count with the life of the store in which it is."""
        async with self._transaction() as tables:
            tables.pulse.put(tables.pulse.value + 1)
            return Pulse(count=tables.pulse.value, life=tables.life.value)

    async def begin_anew(self, *, bucket: int) -> int:
        """End what a restored copy must not bring back, and return how many sessions were live."""
        async with self._transaction() as tables:
            self._raise_mark(bucket)
            self._delete_buckets(_EVERY_BUCKET)
            self._empty_slots()
            live = [row for row in tables.sessions.values() if row.state is SessionState.LIVE]
            for row in live:
                self._end(row, SessionState.ENDED, "the database was restored")
            self._expire_tokens(tables)
            tables.reply_keys.drop_all(where=lambda _key: True)
            # What workers of another life were to hear.
            tables.changes.drop_all(where=lambda _number: True)
            tables.life.put(secrets.token_bytes(ID_BYTES))
            return len(live)

    def _expire_tokens(self, tables: Tables) -> None:
        for key, token in list(tables.tokens.items()):
            if token.state is not TokenState.USED:
                tables.tokens.put(key, replace(token, expires_at=min(token.expires_at, self._now)))
