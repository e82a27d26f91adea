"""Records of the turn into the next bucket (PROTOCOL R8): pages of chain keys, a step of work, how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from qflare.model.ids import SessionId, TenantId
from qflare.model.session import SealedChain

ChainOwner = tuple[TenantId, SessionId, int]
"""Whose chain key: tenant, session, epoch."""
RestingChain = tuple[ChainOwner, bytes]
"""Whose chain key, and the key as it is sealed: of a turn's millions, a record each would cost more than its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPage:
    """Chain keys of many sessions of one tenant and bucket, sealed together as the database holds them."""

    tenant_id: TenantId
    bucket: int
    sids: tuple[SessionId, ...]
    """In order; a session with several epochs stands several times, on this page alone."""
    epochs: tuple[int, ...]
    """One a sid."""
    sealed_chain_keys: bytes
    """``n × 64`` bytes in order of *sids*, sealed as one value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRange:
    """What one step of a turn reads: chain keys of the bucket before, of live sessions in a range of ids."""

    chains: tuple[RestingChain, ...]
    """Those that are rows of their own, in no order."""
    pages: tuple[tuple[SealedPage, tuple[int, ...]], ...]
    """Pages that reach into the range, and which places (from 0) on each are to be carried on."""
    turned: frozenset[ChainOwner]
    """What stands in the new bucket already: on a first touch by some worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnedRange:
    """What one step of a turn writes into the new bucket."""

    pages: tuple[SealedPage, ...] = ()
    chains: tuple[SealedChain, ...] = ()


class TurnStage(StrEnum):
    """What came of a step."""

    LED = "led"
    """This worker led, and the step is committed."""
    FOLLOWED = "followed"
    """Another worker leads just now."""
    EARLY = "early"
    """The late sweep cannot begin before the first one is done."""
    DONE = "done"
    """Nothing is left to do."""
    OVER = "over"
    """One of the two buckets lives no more, or the turn after this one has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnProgress:
    """How far the newest turn is, whole cluster."""

    bucket: int
    """The bucket turned into."""
    ranges: int
    """Steps of a sweep."""
    done: int
    """Steps of the first sweep that are committed."""
    settled: int
    """Steps of the late sweep that are committed."""
    carried: int
    """Chain keys written so far."""
    begun_at: datetime
    ended_at: datetime | None
    """When the first sweep was done."""
    settled_at: datetime | None
    """When the late sweep was done."""
