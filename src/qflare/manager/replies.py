"""
Replies that may come late (PROTOCOL R6): taken, sealed, and their keys sealed again at every turn.

A reply's key is one row from the request to the reply.  Deleting that row decides who takes a reply, or answers a
request: once, whatever worker tries, before and after restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import KeyNotFoundError, QflareError, SessionExpiredError
from qflare.manager.batcher import Batcher
from qflare.manager.deadline import Deadline
from qflare.manager.reply_keys import REPLY_KEY_BYTES, seal_reply_keys, unseal_reply_keys
from qflare.manager.tenancy import by_tenant
from qflare.model.refusal import Refusal
from qflare.model.session import Session, SessionState
from qflare.protocol.record import open_records_many, seal_records_many
from qflare.protocol.reply import new_reply_header
from qflare.protocol.wire import DIRECTION_TO_DEVICE, DIRECTION_TO_SERVER
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.offload import Offload
    from qflare.manager.sessions import Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.model.ids import RequestId, SessionId, TenantId
    from qflare.model.reply import SealedReplyKey
    from qflare.model.reply_ports import ReplyStore
    from qflare.model.session_ports import SessionStore
    from qflare.primitives.rows import Readable
    from qflare.protocol.record import RecordHeader

DROPPED_MAX: Final = 10_000
"""Most reply keys that one statement deletes for each reason."""


@dataclass(frozen=True, slots=True)
class PlainReply:
    """A reply on its way out."""

    tenant_id: TenantId
    """Whose session it must be."""
    sid: SessionId
    request_id: RequestId
    plaintext: bytes | bytearray | memoryview
    aad: bytes


class Replies:
    """Takes and makes the replies of one worker, and keeps their keys from bucket to bucket."""

    def __init__(
        self,
        *,
        store: ReplyStore,
        session_store: SessionStore,
        buckets: Buckets,
        sessions: Sessions,
        offload: Offload,
        settings: ManagerSettings,
    ) -> None:
        """Keep one queue for replies that go out."""
        self._store = store
        self._session_store = session_store
        self._buckets = buckets
        self._sessions = sessions
        self._offload = offload
        self._page = settings.turn_page
        self._deadline = Deadline(settings.store_timeout_s)
        self.seals: Batcher[PlainReply, bytes] = Batcher(
            "seal reply",
            self._seal_batch,
            items_max=settings.batch_max,
            waiting_max=settings.waiting_max,
            flights_max=settings.flights_max,
            weigh=lambda reply: len(reply.plaintext),
            weight_max=settings.record_batch_bytes_max,
        )

    async def close(self, timeout_s: float) -> None:
        """Finish what was accepted."""
        await self.seals.close(timeout_s)

    # --- replies that come in -----------------------------------------------------------------------

    async def open(
        self, ring: Ring, headers: Sequence[RecordHeader], records: Sequence[Readable], aads: Sequence[bytes]
    ) -> list[tuple[Session, SecretBytes] | Refusal]:
        """
        Open replies to our requests; nothing is taken yet.

        Returns:
            The session and the message, which the caller wipes, or why the reply is refused.
        """
        if not headers:
            return []
        known = await self._sessions.find(list({header.sid for header in headers}))
        found = await self._find(
            [(known[its.sid].tenant_id, its.sid, its.request_id) for its in headers if its.sid in known]
        )
        verdicts: list[tuple[Session, SecretBytes] | Refusal] = []
        places: list[int] = []
        for place, header in enumerate(headers):
            verdict = _verdict(ring, header, known.get(header.sid), found)
            verdicts.append(verdict)
            if verdict is Refusal.TAG:  # until it opens
                places.append(place)
        if not places:
            return verdicts
        keys = [found[headers[place].sid, headers[place].request_id] for place in places]
        opened = await self._offload.run(
            partial(_open, ring, keys, [records[place] for place in places], [aads[place] for place in places]),
            wipe=_wipe_all,
        )
        for place, plaintext in zip(places, opened, strict=True):
            if isinstance(plaintext, Refusal):
                verdicts[place] = plaintext
            else:
                verdicts[place] = (known[headers[place].sid], plaintext)
        return verdicts

    async def _find(
        self, wanted: Sequence[tuple[TenantId, SessionId, RequestId | None]]
    ) -> dict[tuple[SessionId, RequestId | None], SealedReplyKey]:
        found: dict[tuple[SessionId, RequestId | None], SealedReplyKey] = {}
        for tenant_id, group in by_tenant(wanted, lambda it: it[0]).items():
            asked = list({(sid, request_id) for _, sid, request_id in group if request_id is not None})
            for key in await self._deadline.of(self._store.find_reply_keys(tenant_id, asked)):
                found[key.sid, key.request_id] = key
        return found

    # --- replies that go out ------------------------------------------------------------------------

    async def _seal_batch(self, batch: Sequence[PlainReply]) -> list[bytes | QflareError]:
        await self._buckets.refresh()
        with self._buckets.lend() as ring:
            found = {
                (tenant_id, *its): key
                for tenant_id, group in by_tenant(batch, lambda reply: reply.tenant_id).items()
                for its, key in (
                    await self._find([(tenant_id, reply.sid, reply.request_id) for reply in group])
                ).items()
            }
            keys = [found.get((reply.tenant_id, reply.sid, reply.request_id)) for reply in batch]
            places = [
                place
                for place, key in enumerate(keys)
                if key is not None and key.direction == DIRECTION_TO_DEVICE and key.expires_bucket >= ring.current
            ]
            chosen = [key for place in places if (key := keys[place]) is not None]
            sealed = await self._offload.run(partial(_seal, ring, chosen, [batch[place] for place in places]))
            ready = [(place, message) for place, message in zip(places, sealed, strict=True) if message is not None]
            results: list[bytes | QflareError] = [_no_request(reply) for reply in batch]
            # Taken before anything is answered: of two workers that reply at once one does.
            for tenant_id, pairs in by_tenant(ready, lambda pair: batch[pair[0]].tenant_id).items():
                asked = [(batch[place].sid, batch[place].request_id) for place, _ in pairs]
                taken = await self._deadline.of(
                    self._store.take_reply_keys(
                        tenant_id, asked, direction=DIRECTION_TO_DEVICE, bucket=ring.current, now_s=ring.now_s
                    )
                )
                lost = [place for (place, _), is_taken in zip(pairs, taken, strict=True) if not is_taken]
                for (place, message), is_taken in zip(pairs, taken, strict=True):
                    if is_taken:
                        results[place] = message
                for place, failure in (await self._why(tenant_id, [batch[place] for place in lost], lost)).items():
                    results[place] = failure
        return results

    async def _why(
        self, tenant_id: TenantId, replies: Sequence[PlainReply], places: Sequence[int]
    ) -> dict[int, QflareError]:
        """Say why replies did not go out: their session has ended, or somebody else was quicker."""
        if not replies:
            return {}
        states = await self._deadline.of(
            self._session_store.find_sessions(tenant_id, list({reply.sid for reply in replies}))
        )
        return {
            place: SessionExpiredError(f"session {reply.sid.hex()} has ended: its requests are not answered any more")
            for place, reply in zip(places, replies, strict=True)
            if (session := states.get(reply.sid)) is None or session.state is not SessionState.LIVE
        }

    # --- from bucket to bucket ----------------------------------------------------------------------

    async def sweep(self) -> int:
        """Seal again for the current bucket what rests in the one before (R6, R8); return how many keys were."""
        resealed = 0
        # Devices choose request ids: those of one id may go beyond a page, of which the next one knows nothing.
        while some := await self._sweep_once():
            resealed += some
        return resealed

    async def _sweep_once(self) -> int:
        resealed = 0
        after: RequestId | None = None
        while True:
            # A lease a page: a long sweep must not keep old keys in memory after their end.
            with self._buckets.lend() as ring:
                bucket = ring.current
                if not ring.has(bucket - 1):
                    return resealed
                page = await self._deadline.of(self._store.list_reply_keys(bucket - 1, limit=self._page, after=after))
                if not page:
                    return resealed
                after = page[-1].request_id
                fresh = await self._offload.run(partial(_reseal, ring, page))
            if fresh:
                resealed += await self._deadline.of(self._store.reseal_reply_keys(fresh))
            if len(page) < self._page:
                return resealed

    async def clean(self, bucket: int) -> int:
        """Delete the keys of replies that never came and those that no KEK opens any more; return how many."""
        dropped, last = 0, DROPPED_MAX
        # All of them: whoever makes sessions faster than a part of their keys is deleted would fill the table.
        while last >= DROPPED_MAX:
            last = await self._deadline.of(
                self._store.drop_reply_keys(before=bucket - 1, bucket=bucket, limit=DROPPED_MAX)
            )
            dropped += last
        return dropped


def _verdict(
    ring: Ring,
    header: RecordHeader,
    session: Session | None,
    found: dict[tuple[SessionId, RequestId | None], SealedReplyKey],
) -> Refusal:
    """Say why a reply is refused before any key is tried; `Refusal.TAG` if nothing speaks against trying."""
    if session is None:
        return Refusal.UNKNOWN_SESSION
    if session.state is not SessionState.LIVE:
        return Refusal.DEVICE_STATE if session.state is SessionState.REVOKED else Refusal.SESSION_ENDED
    key = found.get((header.sid, header.request_id))
    if key is None or key.direction != DIRECTION_TO_SERVER or key.expires_bucket < ring.current:
        return Refusal.NO_REQUEST
    if (header.bucket, header.epoch) != (key.request_bucket, key.request_epoch):
        return Refusal.BUCKET
    return Refusal.TAG


def _open(
    ring: Ring, keys: Sequence[SealedReplyKey], records: Sequence[Readable], aads: Sequence[bytes]
) -> list[SecretBytes | Refusal]:
    values = unseal_reply_keys(ring, keys)
    with SecretBytes.zeros(len(keys) * REPLY_KEY_BYTES) as joined:
        for place, value in enumerate(values):
            if value is not None:
                with value, value.view() as view:
                    joined.row(place, REPLY_KEY_BYTES)[:] = view
        opened = open_records_many(joined, records, aads=aads)
    for place, value in enumerate(values):
        result = opened[place]
        if value is None:
            # Under a key of zeros anybody's record opens: what no KEK opened is gone, whatever the record is.
            if isinstance(result, SecretBytes):
                result.wipe()
            opened[place] = Refusal.NO_REQUEST
    return opened


def _seal(ring: Ring, keys: Sequence[SealedReplyKey], replies: Sequence[PlainReply]) -> list[bytes | None]:
    values = unseal_reply_keys(ring, keys)
    sealed: list[bytes | None] = [None] * len(keys)
    places = [place for place, value in enumerate(values) if value is not None]
    chosen = [value for value in values if value is not None]
    if not chosen:
        return sealed
    with SecretBytes.join(chosen) as joined:
        for value in chosen:
            value.wipe()
        headers = [
            new_reply_header(
                sid=keys[place].sid,
                request_id=keys[place].request_id,
                request_bucket=keys[place].request_bucket,
                request_epoch=keys[place].request_epoch,
                direction=DIRECTION_TO_DEVICE,
            )
            for place in places
        ]
        messages = seal_records_many(
            joined,
            headers,
            [replies[place].plaintext for place in places],
            aads=[replies[place].aad for place in places],
        )
    for place, message in zip(places, messages, strict=True):
        sealed[place] = message
    return sealed


def _reseal(ring: Ring, keys: Sequence[SealedReplyKey]) -> list[SealedReplyKey]:
    values = unseal_reply_keys(ring, keys)
    rows = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    if not rows:
        return []
    with SecretBytes.join([value for _, value in rows]) as joined:
        for _, value in rows:
            value.wipe()
        return seal_reply_keys(ring, [key for key, _ in rows], joined)


def _no_request(reply: PlainReply) -> QflareError:
    return KeyNotFoundError(
        f"session {reply.sid.hex()} has no outstanding request {reply.request_id.hex()}: it was answered, "
        "its time is over, or it never came"
    )


def _wipe_all(opened: Sequence[SecretBytes | Refusal]) -> None:
    for item in opened:
        if isinstance(item, SecretBytes):
            item.wipe()
