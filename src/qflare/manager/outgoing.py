"""What is given out in batches: records sealed for devices (PROTOCOL R3, R6), and application keys (R2)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qflare.errors import (
    KeyNotFoundError,
    OverloadedError,
    QflareError,
    SessionExpiredError,
    SessionUsedUpError,
    StaleBucketError,
    StoreUnavailableError,
)
from qflare.manager.deadline import Deadline
from qflare.manager.message_keys import MESSAGE_KEY_BYTES, derive_message_keys, make_reply_keys, rows_of
from qflare.manager.sessions import Asked
from qflare.manager.tenancy import by_tenant
from qflare.model.refusal import Refusal
from qflare.model.reply import ReplyKeyResult
from qflare.model.session import Session
from qflare.protocol.record import KIND_REQUEST, RecordHeader, new_header, seal_records_many
from qflare.protocol.wire import DIRECTION_TO_DEVICE
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.offload import Offload
    from qflare.manager.record import KeyRequest, PlainRecord
    from qflare.manager.sessions import Resolved, Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.manager.uses import Uses
    from qflare.model.ids import SessionId, TenantId
    from qflare.model.ports import Store


class Outgoing:
    """Seals and derives batches for the sessions of one worker."""

    def __init__(
        self,
        *,
        store: Store,
        buckets: Buckets,
        sessions: Sessions,
        offload: Offload,
        uses: Uses,
        settings: ManagerSettings,
    ) -> None:
        """Hold nothing; batches come from the queues of `Records`."""
        self._uses = uses
        self._store = store
        self._buckets = buckets
        self._sessions = sessions
        self._offload = offload
        self._outstanding_max = settings.replies_outstanding_max
        self._deadline = Deadline(settings.store_timeout_s)

    async def seal_batch(self, batch: Sequence[PlainRecord]) -> list[bytes | QflareError]:
        """Seal a batch for its devices; a record or an error for each."""
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
        await self._uses.carry(
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
        keys = await self._offload.run(partial(make_reply_keys, ring, resolved, asking, lifetimes))
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

    async def derive_batch(self, batch: Sequence[KeyRequest]) -> list[SecretBytes | QflareError]:
        """Derive a key for each request (R2), 64 bytes, or an error; the caller wipes the keys."""
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


def _seal(resolved: Resolved, headers: dict[int, RecordHeader], batch: Sequence[PlainRecord]) -> list[bytes]:
    chosen = list(headers)
    with rows_of(resolved.chain_keys, chosen) as chain_keys:
        ordered = [headers[place] for place in chosen]
        rows = [(header.bucket, header.direction, header.purpose) for header in ordered]
        with derive_message_keys(chain_keys, rows) as keys:
            return seal_records_many(
                keys,
                ordered,
                [batch[place].plaintext for place in chosen],
                aads=[batch[place].aad for place in chosen],
            )


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
