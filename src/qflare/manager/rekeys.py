"""
Rekeys (PROTOCOL R7): REKEY in a control record, the next epoch committed by compare-and-swap, REKEYED in the new epoch.

The commit decides, in the database: which body stands, that both epochs' chain keys rest before anything is answered,
and that the event is in the log.  A body that comes again, to whatever worker, gets the same answer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qflare.errors import StoreUnavailableError
from qflare.manager.chains import CHAIN_KEY_BYTES, seal_chains
from qflare.manager.deadline import Deadline
from qflare.manager.record import OpenedRecord, PlainRecord
from qflare.manager.records import Records
from qflare.manager.sessions import Asked
from qflare.model.event import SecurityEventType
from qflare.model.refusal import Refusal
from qflare.model.session import RekeyClaim, RekeyResult, SealedChain, Session
from qflare.primitives.kdf import chain_advance_many
from qflare.protocol.bucket import decapsulate_by_bucket
from qflare.protocol.record import KIND_CONTROL
from qflare.protocol.rekey import Rekey, derive_rekeyed_many, encode_rekeyed, read_rekey
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.errors import QflareError
    from qflare.manager.buckets import Buckets, Ring
    from qflare.manager.devices import Devices
    from qflare.manager.log import Log
    from qflare.manager.offload import Offload
    from qflare.manager.refusals import Refusals
    from qflare.manager.sessions import Resolved, Sessions
    from qflare.manager.settings import ManagerSettings
    from qflare.model.session_ports import SessionStore

_TRIES: Final = 3
"""How often a rekey is made while buckets turn under it; a bucket lasts longer than that."""
_REFUSALS: Final = {
    RekeyResult.CONFLICT: Refusal.CONFLICT,
    RekeyResult.EXPIRED: Refusal.BUCKET,
    RekeyResult.ENDED: Refusal.SESSION_ENDED,
}


class Rekeys:
    """Answers REKEY."""

    def __init__(
        self,
        *,
        store: SessionStore,
        buckets: Buckets,
        sessions: Sessions,
        devices: Devices,
        records: Records,
        log: Log,
        refusals: Refusals,
        offload: Offload,
        settings: ManagerSettings,
    ) -> None:
        """Commit in *store*, answer through the session's own records."""
        self._log = log
        self._store = store
        self._buckets = buckets
        self._sessions = sessions
        self._devices = devices
        self._records = records
        self._refusals = refusals
        self._offload = offload
        self._deadline = Deadline(settings.store_timeout_s)

    async def answer(self, record: OpenedRecord, body: bytes) -> bytes:
        """
        Commit the next epoch, or find it committed, and return the sealed REKEYED.

        Raises:
            RefusedError: it is no rekey that can stand; the session does, in its present epoch.
            StoreUnavailableError: whether it committed is not known; the device sends the same body again.
            UncoveredError: it did, and no head of the log could be signed; the device sends the same body again.
        """
        session = record.session
        rekey = read_rekey(body, epoch=record.header.epoch)
        if isinstance(rekey, Refusal):
            raise self._refuse(record, rekey)
        await self._buckets.refresh()
        for _ in range(_TRIES):
            result = await self._commit(record, session, rekey)
            if result is not RekeyResult.MOVED:
                break
            # Another worker was in the next bucket already.
            await self._buckets.follow()
        else:
            raise StoreUnavailableError("the bucket turned while a rekey was made; send it again")
        if result in _REFUSALS:
            raise self._refuse(record, _REFUSALS[result])
        if result is RekeyResult.REKEYED:
            # What is held knows the old epoch alone.
            self._sessions.renew(session.sid)
        # A repetition too: the first answer may have failed here.
        await self._log.cover()
        return await self._records.seals.submit(
            PlainRecord(session.tenant_id, session.sid, encode_rekeyed(rekey.bucket, rekey.epoch), b"", KIND_CONTROL),
            tenant_id=session.tenant_id,
        )

    async def _commit(self, record: OpenedRecord, session: Session, rekey: Rekey) -> RekeyResult:
        with self._buckets.lend() as ring:
            # A repetition may come until two buckets after REKEY's; nothing later or further ahead is taken anyway.
            if not ring.first - 1 <= rekey.bucket <= ring.current + 1:
                raise self._refuse(record, Refusal.BUCKET)
            claim = await self._claim(ring, session, rekey)
            event = self._devices.event(
                session.tenant_id,
                SecurityEventType.KEY_ROTATION,
                {"what": "rekey", "sid": session.sid.hex(), "epoch": rekey.epoch, "bucket": rekey.bucket},
                device_id=session.device_id,
            )
            return await self._deadline.of(self._store.rekey_session(session.tenant_id, claim, event=event))

    async def _claim(self, ring: Ring, session: Session, rekey: Rekey) -> RekeyClaim:
        """Derive and seal what the next epoch begins with; nothing where only a repetition can stand."""
        chains: tuple[SealedChain, ...] = ()
        if ring.first <= rekey.bucket <= ring.current + 1 and ring.has(rekey.bucket):
            old = rekey.epoch - 1
            asked = [Asked(session.sid, rekey.bucket, old), Asked(session.sid, ring.current, old)]
            with await self._sessions.resolve(ring, asked) as resolved:
                if isinstance(resolved.sessions[0], Session):
                    chains = await self._offload.run(partial(_seal_claim, ring, session, rekey, resolved))
        return RekeyClaim(
            sid=session.sid,
            epoch=rekey.epoch,
            body_hash=rekey.body_hash,
            first=rekey.bucket,
            current=ring.current,
            chains=chains,
        )

    def _refuse(self, record: OpenedRecord, reason: Refusal) -> QflareError:
        session = record.session
        return self._refusals.refuse(
            "control",
            reason,
            tenant_id=session.tenant_id,
            evidence={"sid": session.sid.hex(), "ref": session.ref.hex()},
            ref=session.ref,
        )


def _seal_claim(ring: Ring, session: Session, rekey: Rekey, resolved: Resolved) -> tuple[SealedChain, ...]:
    """Compute CK'_b (R7) and seal it, and the old epoch's present chain key, for their buckets."""
    bucket, current = rekey.bucket, ring.current
    sealed: list[SealedChain] = []

    def put(chain_bucket: int, epoch: int, chain_key: SecretBytes) -> None:
        sealed.extend(seal_chains(ring, chain_bucket, [(session.tenant_id, session.sid, epoch)], chain_key))

    with (
        resolved.chain_keys.take_row(0, CHAIN_KEY_BYTES) as old,
        decapsulate_by_bucket(ring.keyring, [bucket], [rekey.ciphertext]) as fresh,
        derive_rekeyed_many(
            old,
            fresh,
            sids=[session.sid],
            announcement_hashes=[ring.keyring[bucket].announcement.body_hash],
            rekeys=[rekey],
        ) as chain_key,
    ):
        put(bucket, rekey.epoch, chain_key)
        if bucket < current <= session.last_bucket:
            with chain_advance_many(chain_key, session.sid, [bucket], current) as stepped:
                put(current, rekey.epoch, stepped)
    if isinstance(resolved.sessions[1], Session):
        # The old epoch is read to the end of the next bucket: it must rest where that can be reached.
        with resolved.chain_keys.take_row(1, CHAIN_KEY_BYTES) as present:
            put(current, rekey.epoch - 1, present)
    return tuple(sealed)
