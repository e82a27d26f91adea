"""Which moves the states of NIST SP 800-57 (part 1, section 7) allow, as the database's triggers have them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from qflare.errors import IllegalTransitionError
from qflare.model.device import KeyState
from qflare.model.key_record import KeyMove, KeyRecord

if TYPE_CHECKING:
    from datetime import datetime

_PRE, _ACTIVE, _SUSPENDED = KeyState.PRE_ACTIVE, KeyState.ACTIVE, KeyState.SUSPENDED
_ENDED, _STOLEN, _GONE = KeyState.DEACTIVATED, KeyState.COMPROMISED, KeyState.DESTROYED
KEY_MOVES: Final = {
    _PRE: frozenset({_ACTIVE, _SUSPENDED, _ENDED, _STOLEN, _GONE}),
    _ACTIVE: frozenset({_SUSPENDED, _ENDED, _STOLEN}),
    _SUSPENDED: frozenset({_ACTIVE, _ENDED, _STOLEN}),
    _ENDED: frozenset({_STOLEN, _GONE}),
    _STOLEN: frozenset({_GONE}),
    _GONE: frozenset[KeyState](),
}
FINAL_STATES: Final = frozenset({_ENDED, _STOLEN, _GONE})
_MOVES_KEPT: Final = 100
"""Most moves that a listing tells of one key."""


def no_move(what: str, old: str, new: str) -> IllegalTransitionError:
    """Return the error of a move that is none."""
    return IllegalTransitionError(
        f"the {what} cannot go from {old} to {new}: the states of NIST SP 800-57 allow no such move"
    )


def require_move(what: str, old: KeyState, new: KeyState) -> None:
    """Raise `IllegalTransitionError` unless a key, or a device, may go from *old* to *new*."""
    if new not in KEY_MOVES[old]:
        raise no_move(what, old.value, new.value)


def moved(record: KeyRecord, state: KeyState, *, what: str, reason: str, at: datetime) -> KeyRecord:
    """Return *record* in another state, the move noted."""
    require_move(what, record.state, state)
    move = KeyMove(from_state=record.state, to_state=state, reason=reason or _told_by(record.state, state), moved_at=at)
    return replace(record, state=state, moves=(*record.moves, move))


def as_listed(record: KeyRecord) -> KeyRecord:
    """Return *record* with its last moves alone."""
    return replace(record, moves=record.moves[-_MOVES_KEPT:])


def _told_by(old: KeyState, new: KeyState) -> str:
    return "proven by a handshake" if (old, new) == (_PRE, _ACTIVE) else "no reason given"
