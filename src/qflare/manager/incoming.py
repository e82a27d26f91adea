"""
Records on their way in: opened in batches (PROTOCOL R1-R4), and accepted once.

A record is handed on only after its stream was accepted in the database, in the transaction that also sees whether its
session still lives.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import QflareError
from qflare.manager.deadline import Deadline
from qflare.manager.message_keys import derive_message_keys, make_reply_keys, rows_of
from qflare.manager.record import OpenedRecord
from qflare.manager.sessions import Asked
from qflare.manager.tenancy import by_tenant
from qflare.model.observation import RECORD, Observation
from qflare.model.refusal import Refusal
from qflare.model.reply import ReplyKeyResult
from qflare.model.session import Session, SessionState
from qflare.protocol.record import (
    KIND_CONTROL,
    KIND_REPLY,
    KIND_REQUEST,
    RecordHeader,
    open_records_many,
    read_header,
)
from qflare.protocol.wire import DIRECTION_TO_SERVER
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.limits import Limits
    from qflare.manager.offload import Offload
    from qflare.manager.record import SealedRecord
    from qflare.manager.refusals import Refusals
    from qflare.manager.replies import Replies
    from qflare.manager.sessions import Resolved, Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.manager.uses import Uses
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.ports import Store
    from qflare.model.reply import SealedReplyKey

_REASONS: Final = {
    ReplyKeyResult.ACCEPTED: None,
    ReplyKeyResult.SAVED: None,
    ReplyKeyResult.REFUSED: Refusal.REPLAY,
    ReplyKeyResult.FULL: Refusal.OVERLOADED,
}


class Incoming:
    """Opens and accepts batches for the sessions of one worker."""

    def __init__(
        self,
        *,
        store: Store,
        buckets: Buckets,
        sessions: Sessions,
        replies: Replies,
        refusals: Refusals,
        offload: Offload,
        uses: Uses,
        limits: Limits,
        settings: ManagerSettings,
    ) -> None:
        """Hold nothing; batches come from the queue of `Records`."""
        self._uses = uses
        self._limits = limits
        self._store = store
        self._buckets = buckets
        self._sessions = sessions
        self._replies = replies
        self._refusals = refusals
        self._offload = offload
        self._size_max = settings.record_bytes_max
        self._reply_lifetime = settings.reply_lifetime
        self._outstanding_max = settings.replies_outstanding_max
        self._deadline = Deadline(settings.store_timeout_s)

    async def open_batch(self, batch: Sequence[SealedRecord]) -> list[OpenedRecord | QflareError]:
        """Open a batch; a record or its refusal for each. The caller wipes what opened."""
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            headers = [self._admit(ring, record.message) for record in batch]
            verdicts: list[OpenedRecord | Refusal | QflareError] = [
                header if isinstance(header, Refusal) else Refusal.INTERNAL for header in headers
            ]
            good = {
                place: header
                for place, header in enumerate(headers)
                if isinstance(header, RecordHeader) and header.kind != KIND_REPLY
            }
            asked = [Asked(header.sid, header.bucket, header.epoch) for header in good.values()]
            resolved = await self._sessions.resolve(ring, asked)
            with resolved:
                opened = await self._offload.run(
                    partial(_open, resolved, list(good.values()), [batch[place] for place in good]), wipe=_wipe_opened
                )
                for place, item in zip(good, opened, strict=True):
                    verdicts[place] = item
                try:
                    reply_keys = await self._reply_keys(ring, resolved, good, verdicts)
                except BaseException:
                    _wipe_opened(verdicts)
                    raise
        try:
            # The ring is not lent any more: a late reply is looked up in the database first.
            await self._open_replies(headers, batch, verdicts)
            for place, its in _opened(verdicts):
                verdicts[place] = self._within_bounds(its)
            await self._accept(ring, verdicts, reply_keys)
            for _, its in _opened(verdicts):
                self._limits.charge(its.session.tenant_id, its.session.ref)
            await self._uses.carry([(it.session, len(batch[at].message)) for at, it in _opened(verdicts)])
        except BaseException:
            _wipe_opened(verdicts)
            raise
        if self._refusals.observations.is_observed:
            self._refusals.observations.note([_observed(item) for _, item in _opened(verdicts)])
        return [
            self._refuse(item, headers[place]) if isinstance(item, Refusal) else item
            for place, item in enumerate(verdicts)
        ]

    def _within_bounds(self, item: OpenedRecord | Refusal) -> OpenedRecord | Refusal:
        """Refuse what an authentic record may not carry any more; control stays open, since rotation goes by it."""
        if isinstance(item, Refusal):
            return item
        if self._uses.is_used_up(item.session):
            reason = Refusal.SESSION_USED_UP
        elif item.header.kind != KIND_CONTROL and self._uses.is_overdue(item.session):
            reason = Refusal.ROTATION_OVERDUE
        elif self._limits.is_over(item.session.tenant_id, item.session.ref):
            reason = Refusal.RATE_LIMITED
        else:
            return item
        item.plaintext.wipe()
        return reason

    def _admit(self, ring: Ring, message: bytes | bytearray | memoryview) -> RecordHeader | Refusal:
        # R1, R3: everything that the header alone tells, before anything is looked up or derived.
        if len(message) > self._size_max:
            return Refusal.SIZE
        header = read_header(message)
        if isinstance(header, Refusal):
            return header
        if header.direction != DIRECTION_TO_SERVER:
            return Refusal.UNEXPECTED
        if header.kind == KIND_REPLY:
            # R6: its bucket and epoch are its request's, and compared with those.
            return header
        if not ring.first <= header.bucket <= ring.current + 1 or not ring.has(header.bucket):
            return Refusal.BUCKET
        return header

    async def _reply_keys(
        self,
        ring: Ring,
        resolved: Resolved,
        headers: dict[int, RecordHeader],
        verdicts: Sequence[OpenedRecord | Refusal | QflareError],
    ) -> dict[int, SealedReplyKey]:
        """Seal the keys of the replies to those opened records that are requests (R6)."""
        asking = {
            place: (row, header)
            for row, (place, header) in enumerate(headers.items())
            if header.kind == KIND_REQUEST and isinstance(verdicts[place], OpenedRecord)
        }
        if not asking:
            return {}
        lifetimes = dict.fromkeys(asking, self._reply_lifetime)
        return await self._offload.run(partial(make_reply_keys, ring, resolved, asking, lifetimes))

    async def _open_replies(
        self,
        headers: Sequence[RecordHeader | Refusal],
        batch: Sequence[SealedRecord],
        verdicts: list[OpenedRecord | Refusal | QflareError],
    ) -> None:
        """Open the replies of a batch under the keys of their requests (R6)."""
        late = {
            place: header
            for place, header in enumerate(headers)
            if isinstance(header, RecordHeader) and header.kind == KIND_REPLY
        }
        if not late:
            return
        with self._buckets.lend() as ring:
            opened = await self._replies.open(
                ring,
                list(late.values()),
                [batch[place].message for place in late],
                [batch[place].aad for place in late],
            )
        for (place, header), item in zip(late.items(), opened, strict=True):
            verdicts[place] = item if isinstance(item, Refusal) else OpenedRecord(item[0], header, item[1])

    async def _accept(
        self,
        ring: Ring,
        verdicts: list[OpenedRecord | Refusal | QflareError],
        reply_keys: dict[int, SealedReplyKey],
    ) -> None:
        """Accept each opened record's stream once (R4); what is refused or fails loses its plaintext."""
        seen: set[tuple[SessionId, bytes]] = set()
        fresh: list[int] = []
        for place, item in enumerate(verdicts):
            if not isinstance(item, OpenedRecord):
                continue
            # R6: a request has one reply, whatever stream it comes in.
            stream = (item.header.sid, item.header.request_id or item.header.stream_id)
            if stream in seen:
                # The same record twice in one batch: the first decides.
                item.plaintext.wipe()
                verdicts[place] = Refusal.REPLAY
                continue
            seen.add(stream)
            fresh.append(place)
        groups: dict[TenantId, list[tuple[int, OpenedRecord]]] = by_tenant(
            [(place, item) for place in fresh if isinstance(item := verdicts[place], OpenedRecord)],
            lambda pair: pair[1].session.tenant_id,
        )
        for tenant_id, group in groups.items():
            for kinds in ({KIND_REQUEST}, {KIND_REPLY}, None):
                pairs = [
                    (place, item)
                    for place, item in group
                    if (item.header.kind in kinds if kinds else item.header.kind not in {KIND_REQUEST, KIND_REPLY})
                ]
                if not pairs:
                    continue
                try:
                    await self._accept_of(ring, tenant_id, pairs, verdicts, reply_keys)
                except QflareError as failure:
                    # Others' records are accepted by now, so they are handed on: this failure is not theirs.
                    for place, item in pairs:
                        item.plaintext.wipe()
                        verdicts[place] = failure

    async def _accept_of(
        self,
        ring: Ring,
        tenant_id: TenantId,
        pairs: Sequence[tuple[int, OpenedRecord]],
        verdicts: list[OpenedRecord | Refusal | QflareError],
        reply_keys: dict[int, SealedReplyKey],
    ) -> None:
        """Accept records of one tenant that are all requests, all replies, or neither."""
        reasons = await self._deadline.of(self._claim(ring, tenant_id, pairs, reply_keys))
        lost = []
        for pair, reason in zip(pairs, reasons, strict=True):
            if reason is not None:
                place, item = pair
                item.plaintext.wipe()
                verdicts[place] = reason
                if reason is not Refusal.OVERLOADED:
                    lost.append(pair)
        if not lost:
            return
        # Which of the two it was: the stream came before, or the session does not live any more.
        try:
            states = await self._deadline.of(
                self._store.find_sessions(tenant_id, list({item.header.sid for _, item in lost}))
            )
        except QflareError:
            # What was accepted above must be handed on; only the exact reason of the others is not known.
            return
        for place, item in lost:
            session = states.get(item.header.sid)
            if session is not None and item.header.kind != KIND_REPLY and session.epoch != item.header.epoch:
                # R7: the old epoch is read no longer; what is held of the session may know no other.
                self._sessions.renew(item.header.sid)
                verdicts[place] = Refusal.EPOCH
            if session is None or session.state is not SessionState.LIVE:
                self._sessions.forget(item.header.sid)
                verdicts[place] = (
                    Refusal.DEVICE_STATE
                    if session is not None and session.state is SessionState.REVOKED
                    else Refusal.SESSION_ENDED
                )

    async def _claim(
        self,
        ring: Ring,
        tenant_id: TenantId,
        pairs: Sequence[tuple[int, OpenedRecord]],
        reply_keys: dict[int, SealedReplyKey],
    ) -> list[Refusal | None]:
        """Have the database accept records, in one transaction; None where it did."""
        kind = pairs[0][1].header.kind
        if kind == KIND_REQUEST:
            keys = [reply_keys[place] for place, _ in pairs]
            results = await self._store.accept_requests(
                tenant_id, keys, outstanding_max=self._outstanding_max, now_s=ring.now_s
            )
            return [_REASONS[result] for result in results]
        if kind == KIND_REPLY:
            asked = [(item.header.sid, it) for _, item in pairs if (it := item.header.request_id) is not None]
            taken = await self._store.take_reply_keys(
                tenant_id, asked, direction=DIRECTION_TO_SERVER, bucket=ring.current, now_s=ring.now_s
            )
            return [None if is_taken else Refusal.NO_REQUEST for is_taken in taken]
        claims = [item.header.claim() for _, item in pairs]
        accepted = await self._store.accept_streams(tenant_id, claims, now_s=ring.now_s)
        return [None if is_accepted else Refusal.REPLAY for is_accepted in accepted]

    def _refuse(self, reason: Refusal, header: RecordHeader | Refusal) -> QflareError:
        if isinstance(header, Refusal):
            return self._refusals.refuse("record", reason)
        tenant_id, ref = self._sessions.owner_of(header.sid) or (None, None)
        return self._refusals.refuse(
            "record",
            reason,
            tenant_id=tenant_id,
            ref=ref,
            evidence={"sid": header.sid.hex(), "bucket": header.bucket, "stream_id": header.stream_id.hex()},
        )


def _observed(item: OpenedRecord) -> Observation:
    session, header = item.session, item.header
    # A late reply belongs to an older session by its nature (R6): it says nothing about their order.
    number = 0 if header.kind == KIND_REPLY else session.log_index + 1
    return Observation(RECORD, None, session.tenant_id, session.ref, header.stream_id, header.sid, number)


def _opened(verdicts: Sequence[OpenedRecord | Refusal | QflareError]) -> Iterator[tuple[int, OpenedRecord]]:
    for place, item in enumerate(verdicts):
        if isinstance(item, OpenedRecord):
            yield place, item


def _open(
    resolved: Resolved, headers: Sequence[RecordHeader], batch: Sequence[SealedRecord]
) -> list[OpenedRecord | Refusal]:
    # Only records of sessions that stand are tried: anybody can send the others, and they may be large.
    opened: list[OpenedRecord | Refusal] = [
        session if isinstance(session, Refusal) else Refusal.TAG for session in resolved.sessions
    ]
    chosen = [place for place, session in enumerate(resolved.sessions) if isinstance(session, Session)]
    rows = [(headers[place].bucket, headers[place].direction, headers[place].purpose) for place in chosen]
    with rows_of(resolved.chain_keys, chosen) as chain_keys, derive_message_keys(chain_keys, rows) as keys:
        plaintexts = open_records_many(
            keys, [batch[place].message for place in chosen], aads=[batch[place].aad for place in chosen]
        )
    for place, plaintext in zip(chosen, plaintexts, strict=True):
        session = resolved.sessions[place]
        if isinstance(plaintext, SecretBytes) and isinstance(session, Session):
            opened[place] = OpenedRecord(session, headers[place], plaintext)
        elif isinstance(plaintext, Refusal):
            opened[place] = plaintext
    return opened


def _wipe_opened(opened: Sequence[OpenedRecord | Refusal | QflareError]) -> None:
    for item in opened:
        if isinstance(item, OpenedRecord):
            item.plaintext.wipe()
