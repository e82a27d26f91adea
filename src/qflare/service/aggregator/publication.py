"""What devices fetch: the identity and the announcements, public, the same for everybody, cacheable (A1, A3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qflare.errors import KeyNotFoundError
from qflare.protocol import wire
from qflare.service.aggregator.answer import Answer, cacheable

if TYPE_CHECKING:
    from typing import Literal

    from starlette.types import Scope

    from qflare.clock import Clock
    from qflare.service.key_manager import QuantumKeyManager

IDENTITY_AGE_S: Final = 300
"""CERT changes when an operator issues another; devices look again when a signature does not verify."""
_WIDTH_AT: Final = 8 + 2 + wire.SERVER_ID_BYTES
"""Where an announcement says its width (u32 seconds) and its bucket (u64)."""
_DIGITS_MAX: Final = 20


class Publication:
    """The public bytes of one manager."""

    def __init__(self, manager: QuantumKeyManager, clock: Clock) -> None:
        """Publish for *manager*; *clock* only says how long an answer may be kept."""
        self._manager = manager
        self._clock = clock

    async def identity(self, _scope: Scope) -> Answer:
        """Return ``root vk ‖ CERT``."""
        return cacheable(await self._manager.identity(), max_age_s=IDENTITY_AGE_S)

    async def announcement(self, scope: Scope) -> Answer:
        """Return the announcement of the bucket that the path names."""
        which = _which(scope["path_params"]["which"])
        announcement = await self._manager.announcement(which)
        return cacheable(announcement, max_age_s=self._age_s(which, announcement))

    def _age_s(self, which: Literal["current", "next"] | int, announcement: bytes) -> int:
        """Return until when the address keeps this answer: the name's bucket begins or ends, the number's keys die."""
        width_s = int.from_bytes(announcement[_WIDTH_AT : _WIDTH_AT + 4])
        bucket = int.from_bytes(announcement[_WIDTH_AT + 4 : _WIDTH_AT + 12])
        last = {"current": bucket + 1, "next": bucket}.get(str(which), bucket + 2)
        # A clock that is behind (A2) must not make an answer outlive its bucket: never longer than a bucket or two.
        return max(0, min(last * width_s - self._clock.now_s(), 2 * width_s))


def _which(text: str) -> Literal["current", "next"] | int:
    if text == "current":
        return "current"
    if text == "next":
        return "next"
    # Only plain digits: int() alone would take other scripts, signs and underscores.
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX and int(text) <= wire.U64_MAX:
        return int(text)
    raise KeyNotFoundError("there is no such announcement")
