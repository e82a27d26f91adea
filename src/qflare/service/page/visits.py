"""Who is logged in: visits of operators, in the memory of the worker that serves the page, and gone with it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from qflare.primitives.random import random_bytes

if TYPE_CHECKING:
    from qflare.clock import Clock
    from qflare.model.ids import TenantId

KEY_BYTES: Final = 32
_NS: Final = 10**9


@dataclass(slots=True, eq=False)
class Visit:
    """One operator's login until it ends."""

    tenant_id: TenantId
    name: str
    secret_id: bytes = field(repr=False)
    """Names the secret that let the operator in: a renewal ends what began with the one before."""
    form_token: str = field(repr=False)
    """What a form of this visit carries, so that no other site can send one."""
    begun_ns: int
    seen_ns: int
    streams: int = 0
    """Pages that are open now."""
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)


class Visits:
    """All visits, each known by the hash of the key in its cookie: a look-up tells nothing of a key by its time."""

    def __init__(self, clock: Clock, *, visit_s: int, idle_s: int, visits_max: int) -> None:
        """Start with nobody."""
        self._clock = clock
        self._visit_ns = visit_s * _NS
        self._idle_ns = idle_s * _NS
        self._visits_max = visits_max
        self._visits: dict[bytes, Visit] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._visits)

    @property
    def all(self) -> tuple[Visit, ...]:
        """Return every visit that lasts."""
        return tuple(self._visits.values())

    def begin(self, tenant_id: TenantId, name: str, *, secret_id: bytes) -> tuple[str, Visit]:
        """Begin a visit and return the key for its cookie, which is kept nowhere, with the visit."""
        self.end_over()
        while len(self._visits) >= self._visits_max:
            self.end(min(self._visits.values(), key=lambda visit: visit.seen_ns))
        now_ns = self._clock.monotonic_ns()
        key = new_key()
        visit = Visit(
            tenant_id=tenant_id,
            name=name,
            secret_id=secret_id,
            form_token=new_key(),
            begun_ns=now_ns,
            seen_ns=now_ns,
        )
        self._visits[_hash(key)] = visit
        return key, visit

    def find(self, key: str) -> Visit | None:
        """Return the visit of a cookie's key and note that it was seen; None if there is none or it is over."""
        visit = self._visits.get(_hash(key))
        if visit is None or self._is_over(visit):
            return None
        visit.seen_ns = self._clock.monotonic_ns()
        return visit

    def end(self, visit: Visit) -> None:
        """End a visit; its open pages hear of it."""
        visit.ended.set()
        self._visits = {key: other for key, other in self._visits.items() if other is not visit}

    def end_over(self) -> None:
        """End what lasted too long or was idle for too long."""
        now_ns = self._clock.monotonic_ns()
        for visit in self.all:
            if visit.streams:
                visit.seen_ns = now_ns
            if self._is_over(visit):
                self.end(visit)

    def end_all(self) -> None:
        """End every visit."""
        for visit in self.all:
            self.end(visit)

    def _is_over(self, visit: Visit) -> bool:
        now_ns = self._clock.monotonic_ns()
        is_idle = not visit.streams and now_ns - visit.seen_ns > self._idle_ns
        return is_idle or now_ns - visit.begun_ns > self._visit_ns


class LoginForms:
    """Ties a login form to the browser that fetched it, before there is a visit: nobody is logged in by another."""

    def __init__(self) -> None:
        """Draw the key of this worker."""
        self._key = random_bytes(KEY_BYTES)

    def token(self, cookie: str) -> str:
        """Return what the form carries for the browser with *cookie*."""
        return _text(hmac.digest(self._key, cookie.encode(), "sha256"))

    def is_token(self, cookie: str, token: str) -> bool:
        """
        Tell whether *token* is of the form that was given to the browser with *cookie*.

        CT: who can measure it must not build a token byte by byte.
        """
        return hmac.compare_digest(self.token(cookie).encode(), token.encode(errors="replace"))


def new_key() -> str:
    """Return 256 random bits as text that a cookie can carry."""
    return _text(random_bytes(KEY_BYTES))


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")
