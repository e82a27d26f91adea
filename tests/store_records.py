"""Records for the store's tests: right in shape, random in content."""

import hashlib
import os
import time

from qflare.model.bucket import SealedBucket, SealedIdentity
from qflare.model.device import NewDevice
from qflare.model.event import EventSeverity, NewEvent, SealedKey, SecurityEventType
from qflare.model.ids import DEFAULT_TENANT
from qflare.model.incident import Sighting
from qflare.model.operator import NewOperator, Verifier
from qflare.model.reply import SealedReplyKey
from qflare.model.response import NewResponse, ResponseAction, ResponseTarget
from qflare.model.session import RekeyClaim, SealedChain, SessionClaim, StreamClaim
from qflare.model.signal import Signal
from qflare.model.turn import SealedPage, TurnedRange, TurnStage
from qflare.protocol.heading import session_heading
from qflare.protocol.log import hash_leaf

BUCKET = 1000
NOW_S = 300_000


def new_event(event_type=SecurityEventType.SYSTEM, *, device_id=None, severity=EventSeverity.INFO):
    leaf_data = b"leaf" + os.urandom(60)
    return NewEvent(
        event_type=event_type,
        severity=severity,
        device_id=device_id,
        data=b'{"n":1}',
        leaf_data=leaf_data,
        leaf_hash=hash_leaf(leaf_data),
        occurred_at_ms=int(time.time() * 1000),
    )


def new_sealed_event(subject=None):
    leaf_data = b"QFX1 LEAF\x03" + os.urandom(60)
    return NewEvent(
        event_type=SecurityEventType.SYSTEM,
        severity=EventSeverity.INFO,
        device_id="d",
        data=b'{"n":1}',
        leaf_data=leaf_data,
        leaf_hash=hash_leaf(leaf_data),
        occurred_at_ms=int(time.time() * 1000),
        stored=b"\x01" + os.urandom(90),
        sealed_key=SealedKey(subject or os.urandom(32), os.urandom(61)),
    )


def new_device(device_id=None, *, is_kem_proven=False):
    name = device_id or f"device-{os.urandom(6).hex()}"
    return NewDevice(
        device_id=name,
        ref=hashlib.sha256(name.encode()).digest(),
        verification_key=os.urandom(1312),
        encapsulation_key=os.urandom(1568),
        is_kem_proven=is_kem_proven,
    )


def new_claim(device, *, tenant_id=DEFAULT_TENANT, bucket=BUCKET, **changes):
    leaf_data = b"QFX1 LEAF\x01" + os.urandom(155)
    values = {
        "form": 1,
        "ticket_bucket": bucket,
        "sid": os.urandom(16),
        "tenant_id": tenant_id,
        "ref": device.ref,
        "key_version": 1,
        "start": bucket,
        "lifetime": 288,
        "policy": 0,
        "th3_hash": os.urandom(64),
        "leaf_hash": hashlib.sha256(b"\x00" + leaf_data).digest(),
        "leaf_data": leaf_data,
        "state_bucket": bucket,
        "sealed_chain_key": os.urandom(93),
        "proves_kem": False,
    }
    return SessionClaim(**(values | changes))


def new_operator(tenant_id=DEFAULT_TENANT, name="ann", **changes):
    values = {"salt": os.urandom(16), "log2_n": 15, "r": 8, "p": 1, "secret_hash": os.urandom(32)}
    return NewOperator(tenant_id=tenant_id, name=name, verifier=Verifier(**(values | changes)))


def new_sighting(signal=Signal.REPLAYS, *, ref=None, severity=EventSeverity.WARNING, seen_s=NOW_S, **changes):
    values = {
        "incident_id": os.urandom(16),
        "signal": signal,
        "severity": severity,
        "ref": ref,
        "device_id": None,
        "first_seen_s": seen_s,
        "last_seen_s": seen_s,
        "count": 1,
        "evidence": b"{}",
    }
    return Sighting(**(values | changes))


def new_stream(sid, *, bucket=BUCKET, direction=1, epoch=0):
    return StreamClaim(sid=sid, direction=direction, stream_id=os.urandom(16), bucket=bucket, epoch=epoch)


def new_rekey(sid, *, epoch=1, first=BUCKET, bucket=BUCKET, body_hash=None):
    chain = {"tenant_id": DEFAULT_TENANT, "sid": sid}
    return RekeyClaim(
        sid=sid,
        epoch=epoch,
        body_hash=body_hash or os.urandom(64),
        first=first,
        current=bucket,
        chains=(
            SealedChain(**chain, bucket=bucket, epoch=epoch - 1, sealed_chain_key=os.urandom(93)),
            SealedChain(**chain, bucket=first, epoch=epoch, sealed_chain_key=os.urandom(93)),
        ),
    )


def new_reply_key(sid, *, tenant_id=DEFAULT_TENANT, direction=1, epoch=0, expires=BUCKET + 9, bucket=BUCKET):
    return SealedReplyKey(
        tenant_id=tenant_id,
        sid=sid,
        request_id=os.urandom(16),
        direction=direction,
        request_bucket=BUCKET,
        request_epoch=epoch,
        expires_bucket=expires,
        bucket=bucket,
        sealed_reply_key=os.urandom(93),
    )


def new_bucket(bucket=BUCKET):
    return SealedBucket(
        bucket=bucket,
        width_s=300,
        announcement=os.urandom(4042),
        sealed_dk=os.urandom(93),
        sealed_ticket_key=os.urandom(61),
    )


def new_page(sids, *, tenant_id=DEFAULT_TENANT, bucket=BUCKET, epochs=None):
    """A page of these sessions, in order of sid."""
    return SealedPage(
        tenant_id=tenant_id,
        bucket=bucket,
        sids=tuple(sorted(sids)),
        epochs=tuple(epochs or (0,) * len(sids)),
        sealed_chain_keys=os.urandom(29 + 64 * len(sids)),
    )


def new_identity(serial=1):
    return SealedIdentity(
        server_id=os.urandom(32),
        root_key=os.urandom(2592),
        certificate=os.urandom(7330),
        serial=serial,
        sealed_root=os.urandom(61),
        sealed_announce=os.urandom(61),
        sealed_log=os.urandom(61),
    )


async def publish(store, *buckets):
    """Make buckets live; the lowest is the one before the present by default."""
    for bucket in buckets or (BUCKET - 1, BUCKET, BUCKET + 1):
        await store.save_bucket(new_bucket(bucket))


async def register(store, count=1, *, tenant_id=DEFAULT_TENANT, **how):
    """Register devices and return them."""
    devices = [new_device(**how) for _ in range(count)]
    added, _ = await store.add_devices(tenant_id, devices, events=[new_event() for _ in devices])
    assert all(added)
    return devices


async def confirm(store, *claims, tenant_id=DEFAULT_TENANT, live_bucket=BUCKET - 1):
    """Confirm claims and return their outcomes."""
    outcomes, _ = await store.confirm_sessions(
        tenant_id, claims, now_s=NOW_S, live_bucket=live_bucket, heading=heading(tenant_id)
    )
    return outcomes


def heading(tenant_id=DEFAULT_TENANT):
    """Return what stands before sessions of NOW_S in the log."""
    return session_heading(tenant_id, NOW_S)


async def begin_session(store, device, **how):
    """Confirm one session and return its claim."""
    claim = new_claim(device, **how)
    live_bucket = min(BUCKET - 1, claim.ticket_bucket)
    (outcome,) = await confirm(store, claim, tenant_id=claim.tenant_id, live_bucket=live_bucket)
    assert outcome.result == "created"
    return claim


async def step_turn(store, bucket=BUCKET + 1, *, is_late=False, range_size=1 << 14, in_pages=False):
    """Lead one step into *bucket* as a worker does, with random bytes for keys; return the stage and what was read."""
    seen = []

    async def work(found):
        seen.append(found)
        owners = {owner for owner, _ in found.chains}
        for page, places in found.pages:
            owners |= {(page.tenant_id, page.sids[place], page.epochs[place]) for place in places}
        owners -= found.turned
        if not in_pages:
            return TurnedRange(chains=tuple(turned_chain(*owner, bucket) for owner in sorted(owners)))
        tenants = {tenant_id for tenant_id, _, _ in owners}
        return TurnedRange(
            pages=tuple(
                new_page(
                    [sid for owned_by, sid, _ in owners if owned_by == tenant_id], tenant_id=tenant_id, bucket=bucket
                )
                for tenant_id in sorted(tenants)
            )
        )

    stage = await store.step_turn(bucket, is_late=is_late, range_size=range_size, work=work)
    assert bool(seen) == (stage is TurnStage.LED)
    return stage, seen[0] if seen else None


def turned_chain(tenant_id, sid, epoch, bucket):
    return SealedChain(tenant_id=tenant_id, sid=sid, bucket=bucket, epoch=epoch, sealed_chain_key=os.urandom(93))


def new_response(action=ResponseAction.QUARANTINE, *, device=None, by="ann", **changes):
    target = ResponseTarget() if device is None else ResponseTarget(ref=device.ref, device_id=device.device_id)
    values = {
        "response_id": os.urandom(16),
        "action": action,
        "target": target,
        "incident_id": None,
        "rule": None,
        "is_automatic": False,
        "proven": 0,
        "asked_by": by,
        "reason": "it behaves oddly",
    }
    return NewResponse(**(values | changes))
