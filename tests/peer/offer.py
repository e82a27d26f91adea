"""Section O: offer, both sides."""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from .agreement import Agreement
from .notation import (
    CT,
    LIFETIME_MAX,
    NO_PSK,
    SUITE,
    VERSION,
    encaps,
    expand,
    extract,
    h,
    message,
    require,
    u8,
    u16,
    u32,
    u64,
)  # fmt: skip
from .ticket import OFFER, SIZE, Ticket, open_ticket

if TYPE_CHECKING:
    from .identity import Announcement, Device, Server

OFFER_SIZE, ANSWER_SIZE, BODY_SIZE = 1841, 1849, 1610
PENDING_MAX = 8


def offer_transcript(
    *, body_b: bytes, ek_d: bytes, tenant_id: bytes, ref: bytes, key_version: int, offer: bytes
) -> bytes:
    """th1 of O1."""
    return h(
        "QFX/1 offer", u16(SUITE), h(body_b), h(ek_d), tenant_id, ref, u32(key_version),
        offer[:BODY_SIZE],
    )  # fmt: skip


def make_offer(
    server: Server, *,
    ek_d: bytes, tenant_id: bytes, ref: bytes, key_version: int, bucket: int,
    lifetime: int = LIFETIME_MAX,
) -> bytes:  # fmt: skip
    """O1; *bucket* is the server's bucket."""
    ct_d, ss_d = encaps(ek_d)
    sid = secrets.token_bytes(16)
    body = (
        u8(6) + u8(VERSION) + u16(SUITE) + u64(bucket) + u64(bucket) + u16(lifetime) + u32(0)
        + sid + ct_d
    )  # fmt: skip
    th1 = offer_transcript(
        body_b=server.buckets[bucket].body, ek_d=ek_d, tenant_id=tenant_id, ref=ref,
        key_version=key_version, offer=body,
    )  # fmt: skip
    ticket = Ticket(
        form=OFFER, b=bucket, sid=sid, tenant_id=tenant_id, ref=ref, key_version=key_version,
        hdr_b=bucket, start=bucket, expiry=(bucket + 2) * server.width, lifetime=lifetime,
        policy=0, secret=ss_d, th=th1,
    )  # fmt: skip
    return body + ticket.seal(server.buckets[bucket].ticket_key)


def take_offer(device: Device, announcement: Announcement, offer: bytes) -> tuple[bytes, Agreement]:
    """O2: returns ANSWER and what was agreed; *announcement* is that of the OFFER's bucket."""
    reader = message(offer, kind=6, size=OFFER_SIZE)
    require(reader.integer(2) == SUITE, "suite")
    b, start = reader.integer(8), reader.integer(8)
    lifetime, policy = reader.integer(2), reader.integer(4)
    sid, ct_d, ticket = reader.take(16), reader.take(CT), reader.rest
    require(b == announcement.b and b >= device.mark, "bucket")
    require(start == b, "start")
    require(1 <= lifetime <= LIFETIME_MAX, "lifetime")
    require(policy == 0, "policy")
    th1 = offer_transcript(
        body_b=announcement.body, ek_d=device.kem.ek, tenant_id=device.tenant_id, ref=device.ref,
        key_version=device.key_version, offer=offer,
    )  # fmt: skip
    if th1 not in device.answers:
        require(len(device.answers) < PENDING_MAX, "too many pending")
        ck1 = extract(th1, device.kem.decaps(ct_d))
        ct_b, ss_b = encaps(announcement.ek)
        agreement = Agreement(
            form=OFFER, server_id=device.server_id, sid=sid, tenant_id=device.tenant_id,
            ref=device.ref, key_version=device.key_version, hdr_b=b, start=start,
            lifetime=lifetime, policy=policy,
            ck2=extract(extract(ck1, device.psk), ss_b), th3=h(th1, ct_b),
        )  # fmt: skip
        pre = expand(ck1, "pre", agreement.th3, 16)
        device.answers[th1] = (ct_b + pre + agreement.device_tag, agreement)
    rest, kept = device.answers[th1]
    assert isinstance(kept, Agreement)
    return u8(7) + u8(VERSION) + ticket + rest, kept


def take_answer(server: Server, answer: bytes, *, now: int, psk: bytes = NO_PSK) -> Agreement:
    """O3 up to the transaction."""
    reader = message(answer, kind=7, size=ANSWER_SIZE)
    keys = {b: bucket.ticket_key for b, bucket in server.buckets.items()}
    ticket = open_ticket(reader.take(SIZE[OFFER]), keys, form=OFFER, now=now)
    ct_b, pre, tag = reader.take(CT), reader.take(16), reader.take(32)
    ck1, th3 = extract(ticket.th, ticket.secret), h(ticket.th, ct_b)
    require(hmac.compare_digest(pre, expand(ck1, "pre", th3, 16)), "pre tag")
    ss_b = server.buckets[ticket.b].kem.decaps(ct_b)
    agreement = Agreement(
        form=OFFER, server_id=server.server_id, sid=ticket.sid, tenant_id=ticket.tenant_id,
        ref=ticket.ref, key_version=ticket.key_version, hdr_b=ticket.hdr_b, start=ticket.start,
        lifetime=ticket.lifetime, policy=ticket.policy,
        ck2=extract(extract(ck1, psk), ss_b), th3=th3,
    )  # fmt: skip
    require(hmac.compare_digest(tag, agreement.device_tag), "device tag")
    return agreement
