"""The port to sessions, their sealed chain keys, and what was accepted already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from qflare.model.event import LogAppend, NewEvent
    from qflare.model.ids import CallId, DeviceRef, SessionId, TenantId
    from qflare.model.session import (
        ClaimOutcome,
        RekeyClaim,
        RekeyResult,
        SealedChain,
        Session,
        SessionClaim,
        SessionState,
        StreamClaim,
    )
    from qflare.model.statistics import KeyStatistics
    from qflare.model.turn import SealedPage, TurnedRange, TurnProgress, TurnRange, TurnStage


class SessionStore(Protocol):
    """Sessions, their sealed chain keys, and what was accepted already."""

    async def confirm_sessions(
        self,
        tenant_id: TenantId,
        claims: Sequence[SessionClaim],
        *,
        now_s: int,
        live_bucket: int,
        heading: NewEvent,
    ) -> tuple[tuple[ClaimOutcome, ...], LogAppend | None]:
        """
        Run H8 for each claim: device row locked, handshake row, session, sealed state, audit entry; at most 4 live.

        *heading* is the event that says in the log whose the sessions are and when they were made: tenant_id and now_s.
        It stands before their entries if there are any, and first in what the append lists.

        A bucket lives while its row of `save_bucket` stands.  *live_bucket* is the lowest live one: claims of buckets
        below it, or of buckets without a row, are `ClaimResult.EXPIRED`, and sessions that end below it are over.
        """

    async def find_session_tenants(self, sids: Sequence[SessionId]) -> dict[SessionId, TenantId]:
        """Return which tenant each known session belongs to."""

    async def find_sessions(self, tenant_id: TenantId, sids: Sequence[SessionId]) -> dict[SessionId, Session]:
        """Return the sessions found among *sids*, ended ones too."""

    async def find_chains(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedChain, ...]:
        """Return the sealed chain keys of *sids* for buckets *first* to *last*, of two epochs where one ends (R7)."""

    async def save_chains(self, chains: Sequence[SealedChain]) -> int:
        """Insert chain keys where absent (a turn, or first touch by any worker); return how many were new."""

    async def find_pages(
        self, tenant_id: TenantId, sids: Sequence[SessionId], *, first: int, last: int
    ) -> tuple[SealedPage, ...]:
        """Return the pages that hold chain keys of *sids* for buckets *first* to *last* inclusive."""

    async def step_turn(
        self,
        bucket: int,
        *,
        is_late: bool,
        range_size: int,
        work: Callable[[TurnRange], Awaitable[TurnedRange]],
    ) -> TurnStage:
        """
        Lead one step of the turn into *bucket* (R8), unless another worker leads.

        Reads chain keys of the bucket before, about *range_size* of them, has *work* step them, writes what it returns
        where absent, and counts the step, in one transaction. The late sweep reads what the first one did not see.
        """

    async def await_writers(self, bucket: int) -> None:
        """Wait until whoever was writing into *bucket* has committed; `StoreUnavailableError` if it takes long."""

    async def find_turn(self) -> TurnProgress | None:
        """Return how far the newest turn is, or None before the first one."""

    async def accept_streams(
        self, tenant_id: TenantId, claims: Sequence[StreamClaim], *, now_s: int
    ) -> tuple[bool, ...]:
        """Insert streams; True where new, False where accepted before, or session or epoch do not live (R4, R7)."""

    async def rekey_session(self, tenant_id: TenantId, claim: RekeyClaim, *, event: NewEvent) -> RekeyResult:
        """Make the claim's epoch the session's by compare-and-swap, with chain keys and event (R7)."""

    async def list_sessions(
        self, tenant_id: TenantId, *, limit: int, after: SessionId | None = None, ref: DeviceRef | None = None
    ) -> tuple[Session, ...]:
        """Return up to *limit* sessions in order of id; with *ref* that device's live ones."""

    async def end_sessions(
        self,
        tenant_id: TenantId,
        sids: Sequence[SessionId],
        state: SessionState,
        *,
        events: Sequence[NewEvent],
        reason: str = "",
        call_id: CallId | None = None,
    ) -> int:
        """End live sessions, and keep why; return how many were live."""

    async def expire_sessions(self, *, before_bucket: int) -> int:
        """Mark sessions whose last bucket is below *before_bucket* as expired, of every tenant; return how many."""

    async def count_keys(self, tenant_id: TenantId, *, bucket: int) -> KeyStatistics:
        """Return the figures of `get_key_statistics` for one tenant."""

    async def count_sessions(self, tenant_id: TenantId, *, first: int, last: int) -> dict[int, int]:
        """Return how many sessions, over or not, end with each of the buckets *first* to *last*; none, no key."""
