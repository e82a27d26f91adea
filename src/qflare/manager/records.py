"""
Records opened and sealed in batches (PROTOCOL R1-R4), and keys derived for the application (R2).

A record is handed on only after its stream was accepted in the database, in the transaction that also sees whether its
session still lives.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from qflare.errors import (
    KeyNotFoundError,
    OverloadedError,
    QflareError,
    SessionExpiredError,
    SessionUsedUpError,
    StaleBucketError,
    StoreUnavailableError,
)
from qflare.manager.batcher import Batcher
from qflare.manager.chains import CHAIN_KEY_BYTES
from qflare.manager.deadline import Deadline
from qflare.manager.reply_keys import derive_and_seal_reply_keys, reply_key_of
from qflare.manager.sessions import Asked
from qflare.manager.tenancy import by_tenant
from qflare.model.refusal import Refusal
from qflare.model.reply import ReplyKeyResult
from qflare.model.session import Session, SessionState
from qflare.primitives.kdf import message_keys_many
from qflare.protocol.record import (
    KIND_CONTROL,
    KIND_REPLY,
    KIND_REQUEST,
    RecordHeader,
    new_header,
    open_records_many,
    read_header,
    seal_records_many,
)
from qflare.protocol.reply import request_id_of
from qflare.protocol.wire import DIRECTION_TO_DEVICE, DIRECTION_TO_SERVER
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.replies import Replies
    from qflare.manager.sessions import Resolved, Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.manager.uses import Uses
    from qflare.model.ids import RequestId, SessionId, TenantId
    from qflare.model.ports import Store
    from qflare.model.reply import SealedReplyKey

MESSAGE_KEY_BYTES: Final = 64
_REASONS: Final = {
    ReplyKeyResult.ACCEPTED: None,
    ReplyKeyResult.SAVED: None,
    ReplyKeyResult.REFUSED: Refusal.REPLAY,
    ReplyKeyResult.FULL: Refusal.OVERLOADED,
}


@dataclass(frozen=True, slots=True)
class OpenedRecord:
    """A record that was authentic, new and of a live session; its holder wipes the plaintext."""

    session: Session
    header: RecordHeader
    plaintext: SecretBytes

    @property
    def request_id(self) -> RequestId | None:
        """Return the request that this record is, or that it answers; None if it is neither (R6)."""
        return request_id_of(self.header)

    def __enter__(self) -> Self:
        """Lend the plaintext to a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the plaintext."""
        self.plaintext.wipe()


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record on its way in, with the application's associated data."""

    message: bytes | bytearray | memoryview
    """Not copied: its owner leaves it alone until the record has opened."""
    aad: bytes


@dataclass(frozen=True, slots=True)
class PlainRecord:
    """A message on its way out."""

    tenant_id: TenantId
    """Whose session it must be."""
    sid: SessionId
    plaintext: bytes | bytearray | memoryview
    aad: bytes
    kind: int
    reply_lifetime: int = 0
    """Of a request alone: in how many buckets, from this one on, its reply is taken (R6)."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """An application key asked for: purpose is encoded and checked already."""

    tenant_id: TenantId
    """Whose session it must be."""
    sid: SessionId
    purpose: bytes
    bucket: int | None
    direction: int


class Records:
    """Opens, seals and derives for the sessions of one worker."""

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
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue for each direction and one for keys."""
        self._uses = uses
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
        self.opens: Batcher[SealedRecord, OpenedRecord] = Batcher(
            "open record",
            self._open_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            discard=lambda opened: opened.plaintext.wipe(),
            weigh=lambda record: len(record.message),
            weight_max=settings.record_batch_bytes_max,
        )
        self.seals: Batcher[PlainRecord, bytes] = Batcher(
            "seal record",
            self._seal_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            weigh=lambda record: len(record.plaintext),
            weight_max=settings.record_batch_bytes_max,
        )
        self.keys: Batcher[KeyRequest, SecretBytes] = Batcher(
            "derive key",
            self._derive_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            discard=SecretBytes.wipe,
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        for queue in (self.opens, self.seals, self.keys):
            await queue.close(timeout_s)
        with contextlib.suppress(QflareError):
            # Counts that the store does not take now are lost, as they are when a worker is killed.
            await self._uses.flush()

    # --- opening ----------------------------------------------------------------------------------

    async def _open_batch(self, batch: Sequence[SealedRecord]) -> list[OpenedRecord | QflareError]:
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
            await self._count([(it.session, len(batch[at].message)) for at, it in _opened(verdicts)])
        except BaseException:
            _wipe_opened(verdicts)
            raise
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
        else:
            return item
        item.plaintext.wipe()
        return reason

    async def _count(self, carried: Sequence[tuple[Session, int]]) -> None:
        for session, size_bytes in carried:
            self._uses.count(session, size_bytes)
        if self._uses.is_flush_due:
            with contextlib.suppress(QflareError):
                # The records stand. What was counted is kept, and flushed with the next batch.
                await self._uses.flush()

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
        return await self._offload.run(partial(_seal_reply_keys, ring, resolved, asking, lifetimes))

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
                self._sessions.forget(item.header.sid)
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
        return self._refusals.refuse(
            "record",
            reason,
            tenant_id=self._sessions.tenant_of(header.sid),
            evidence={"sid": header.sid.hex(), "bucket": header.bucket, "stream_id": header.stream_id.hex()},
        )

    # --- sealing ----------------------------------------------------------------------------------

    async def _seal_batch(self, batch: Sequence[PlainRecord]) -> list[bytes | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            resolved = await self._sessions.resolve(ring, [Asked(record.sid) for record in batch], is_fresh=True)
            with resolved:
                _refuse_strangers(resolved, [record.tenant_id for record in batch])
                used_up = {
                    place
                    for place, it in enumerate(resolved.sessions)
                    if isinstance(it, Session) and self._uses.is_used_up(it)
                }
                places = [
                    place
                    for place, it in enumerate(resolved.sessions)
                    if isinstance(it, Session) and place not in used_up
                ]
                headers = {
                    place: new_header(
                        sid=batch[place].sid,
                        bucket=resolved.buckets[place],
                        direction=DIRECTION_TO_DEVICE,
                        kind=batch[place].kind,
                        epoch=resolved.epochs[place],
                    )
                    for place in places
                }
                failures = await self._keep_reply_keys(ring, resolved, headers, batch)
                sealed = await self._offload.run(partial(_seal, resolved, headers, batch))
                results: list[bytes | QflareError] = [
                    _no_session(it, batch[place].sid) if isinstance(it, Refusal) else b""
                    for place, it in enumerate(resolved.sessions)
                ]
        for place in used_up:
            results[place] = SessionUsedUpError(
                f"session {batch[place].sid.hex()} has carried as many records or bytes as one may (R9): let the "
                "device begin a new one with a handshake"
            )
        for place, message in zip(places, sealed, strict=True):
            results[place] = failures.get(place, message)
        await self._count(
            [
                (session, len(message))
                for place, message in zip(places, sealed, strict=True)
                if place not in failures and isinstance(session := resolved.sessions[place], Session)
            ]
        )
        return results

    async def _keep_reply_keys(
        self, ring: Ring, resolved: Resolved, headers: dict[int, RecordHeader], batch: Sequence[PlainRecord]
    ) -> dict[int, QflareError]:
        """Keep the keys of the replies to our requests before these go out (R6); return what went wrong."""
        asking = {place: (place, header) for place, header in headers.items() if header.kind == KIND_REQUEST}
        if not asking:
            return {}
        lifetimes = {place: batch[place].reply_lifetime for place in asking}
        keys = await self._offload.run(partial(_seal_reply_keys, ring, resolved, asking, lifetimes))
        failures: dict[int, QflareError] = {}
        for tenant_id, group in by_tenant(list(keys.items()), lambda pair: pair[1].tenant_id).items():
            results = await self._deadline.of(
                self._store.save_reply_keys(tenant_id, [key for _, key in group], outstanding_max=self._outstanding_max)
            )
            for (place, key), result in zip(group, results, strict=True):
                if result is ReplyKeyResult.FULL:
                    failures[place] = OverloadedError(
                        f"session {key.sid.hex()} has {self._outstanding_max} replies outstanding; "
                        "ask again when some have come"
                    )
                elif result is not ReplyKeyResult.SAVED:
                    failures[place] = StoreUnavailableError(
                        f"session {key.sid.hex()} ended or was rekeyed at this moment; ask again"
                    )
        return failures

    # --- keys -------------------------------------------------------------------------------------

    async def _derive_batch(self, batch: Sequence[KeyRequest]) -> list[SecretBytes | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            buckets = [ring.current if request.bucket is None else request.bucket for request in batch]
            is_inside = [ring.first <= bucket <= ring.current + 1 and ring.has(bucket) for bucket in buckets]
            places = [place for place, inside in enumerate(is_inside) if inside]
            resolved = await self._sessions.resolve(
                ring, [Asked(batch[place].sid, batch[place].bucket) for place in places], is_fresh=True
            )
            results: list[SecretBytes | QflareError] = [
                StaleBucketError(
                    f"the key of bucket {bucket} is erased or not published yet: {ring.first} to {ring.current + 1} "
                    "can be derived"
                )
                for bucket in buckets
            ]
            with resolved:
                _refuse_strangers(resolved, [batch[place].tenant_id for place in places])
                rows = [
                    (resolved.buckets[row], batch[place].direction, batch[place].purpose)
                    for row, place in enumerate(places)
                ]
                with await self._offload.run(
                    partial(derive_message_keys, resolved.chain_keys, rows), wipe=SecretBytes.wipe
                ) as keys:
                    for row, place in enumerate(places):
                        verdict = resolved.sessions[row]
                        results[place] = (
                            _no_session(verdict, batch[place].sid)
                            if isinstance(verdict, Refusal)
                            else keys.take_row(row, MESSAGE_KEY_BYTES)
                        )
            return results


def _opened(verdicts: Sequence[OpenedRecord | Refusal | QflareError]) -> Iterator[tuple[int, OpenedRecord]]:
    for place, item in enumerate(verdicts):
        if isinstance(item, OpenedRecord):
            yield place, item


def derive_message_keys(chain_keys: SecretBytes, rows: Sequence[tuple[int, int, bytes]]) -> SecretBytes:
    """
    Derive a message key for each (bucket, direction, purpose), one C call for all rows that agree in them (R2).

    Args:
        chain_keys: ``n × 64`` bytes, each of its row's bucket.
        rows: One a chain key.

    Returns:
        ``n × 64`` bytes, owned by the caller.
    """
    keys = SecretBytes.zeros(len(rows) * MESSAGE_KEY_BYTES)
    groups: dict[tuple[int, int, bytes], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(row, []).append(position)
    try:
        for (bucket, direction, purpose), positions in groups.items():
            with (
                _rows_of(chain_keys, positions) as chosen,
                message_keys_many(chosen, bucket, direction, purpose) as made,
            ):
                for number, position in enumerate(positions):
                    keys.row(position, MESSAGE_KEY_BYTES)[:] = made.row(number, MESSAGE_KEY_BYTES)
    except BaseException:
        keys.wipe()
        raise
    return keys


def _open(
    resolved: Resolved, headers: Sequence[RecordHeader], batch: Sequence[SealedRecord]
) -> list[OpenedRecord | Refusal]:
    # Only records of sessions that stand are tried: anybody can send the others, and they may be large.
    opened: list[OpenedRecord | Refusal] = [
        session if isinstance(session, Refusal) else Refusal.TAG for session in resolved.sessions
    ]
    chosen = [place for place, session in enumerate(resolved.sessions) if isinstance(session, Session)]
    rows = [(headers[place].bucket, headers[place].direction, headers[place].purpose) for place in chosen]
    with _rows_of(resolved.chain_keys, chosen) as chain_keys, derive_message_keys(chain_keys, rows) as keys:
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


def _seal_reply_keys(
    ring: Ring, resolved: Resolved, asking: dict[int, tuple[int, RecordHeader]], lifetimes: dict[int, int]
) -> dict[int, SealedReplyKey]:
    """Derive and seal the keys of the replies to requests (R6): place -> (row of *resolved*, header) in, rows out."""
    keys = [
        reply_key_of(session, header, lifetime=lifetimes[place])
        for place, (row, header) in asking.items()
        if isinstance(session := resolved.sessions[row], Session)
    ]
    with _rows_of(resolved.chain_keys, [row for row, _ in asking.values()]) as chain_keys:
        return dict(zip(asking, derive_and_seal_reply_keys(ring, keys, chain_keys), strict=True))


def _seal(resolved: Resolved, headers: dict[int, RecordHeader], batch: Sequence[PlainRecord]) -> list[bytes]:
    chosen = list(headers)
    with _rows_of(resolved.chain_keys, chosen) as chain_keys:
        ordered = [headers[place] for place in chosen]
        rows = [(header.bucket, header.direction, header.purpose) for header in ordered]
        with derive_message_keys(chain_keys, rows) as keys:
            return seal_records_many(
                keys,
                ordered,
                [batch[place].plaintext for place in chosen],
                aads=[batch[place].aad for place in chosen],
            )


def _rows_of(chain_keys: SecretBytes, places: Sequence[int]) -> SecretBytes:
    """Copy the chain keys of *places*, in that order; the caller wipes the copy."""
    chosen = SecretBytes.zeros(len(places) * CHAIN_KEY_BYTES)
    for number, place in enumerate(places):
        chosen.row(number, CHAIN_KEY_BYTES)[:] = chain_keys.row(place, CHAIN_KEY_BYTES)
    return chosen


def _refuse_strangers(resolved: Resolved, tenants: Sequence[TenantId]) -> None:
    """Treat sessions of other tenants as if they did not exist: the caller works inside one."""
    for place, tenant_id in enumerate(tenants):
        session = resolved.sessions[place]
        if isinstance(session, Session) and session.tenant_id != tenant_id:
            resolved.sessions[place] = Refusal.UNKNOWN_SESSION


def _no_session(reason: Refusal, sid: SessionId) -> QflareError:
    if reason is Refusal.UNKNOWN_SESSION:
        return KeyNotFoundError(f"no session {sid.hex()}: finish a handshake first")
    if reason is Refusal.BUCKET:
        return StaleBucketError(f"session {sid.hex()} does not live in that bucket")
    if reason in (Refusal.SESSION_ENDED, Refusal.DEVICE_STATE):
        return SessionExpiredError(f"session {sid.hex()} has ended: make a new handshake")
    return StoreUnavailableError(f"session {sid.hex()}: {reason.value}")


def _wipe_opened(opened: Sequence[OpenedRecord | Refusal | QflareError]) -> None:
    for item in opened:
        if isinstance(item, OpenedRecord):
            item.plaintext.wipe()
