"""Section H: hello, both sides."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .agreement import Agreement
from .notation import (
    CT,
    EK,
    LIFETIME_MAX,
    NO_PSK,
    SIG44,
    SUITE,
    TAG,
    VERSION,
    KemKey,
    Reader,
    encaps,
    expand,
    extract,
    h,
    message,
    require,
    seal,
    u8,
    u16,
    u32,
    u64,
    unseal,
    verify,
)  # fmt: skip
from .ticket import HELLO, SIZE, Ticket, open_ticket

if TYPE_CHECKING:
    from .identity import Announcement, Device, Server

M1_SIZE, HDR_SIZE, M2_SIZE, M3_SIZE = 5636, 3148, 1879, 297


@dataclass
class Pending:
    """What a device keeps between M1 and M2."""

    m1: bytes
    ephemeral: KemKey
    b: int
    th1: bytes
    ck1: bytes


@dataclass
class OpenedHello:
    """What a server knows once c1 has opened."""

    b: int
    ek_e: bytes
    c1: bytes
    th1: bytes
    ck1: bytes
    tenant_id: bytes
    ref: bytes
    key_version: int
    signature: bytes


def make_m1(device: Device, announcement: Announcement) -> Pending:
    """H1, H2."""
    ephemeral = KemKey()
    ct_b, ss_b = encaps(announcement.ek)
    hdr = u8(1) + u8(VERSION) + u16(SUITE) + u64(announcement.b) + ephemeral.ek + ct_b
    th1 = h("QFX/1 hello", u16(SUITE), h(announcement.body), hdr)
    ck1 = extract(th1, ss_b)
    signed = h(th1, device.tenant_id, device.ref, u32(device.key_version))
    plaintext = (
        device.tenant_id + device.ref + u32(device.key_version)
        + device.signing.sign(signed, "QFX1 dev")
    )  # fmt: skip
    c1 = seal(expand(ck1, "m1", th1, 32), plaintext, th1)
    return Pending(hdr + c1, ephemeral, announcement.b, th1, ck1)


def open_m1(server: Server, m1: bytes, *, live: tuple[int, ...]) -> OpenedHello:
    """H3 up to the device row; *live* are the buckets that a hello may name."""
    reader = message(m1, kind=1, size=M1_SIZE)
    require(reader.integer(2) == SUITE, "suite")
    b = reader.integer(8)
    require(b in live and b in server.buckets, "bucket")
    ek_e, ct_b, c1 = reader.take(EK), reader.take(CT), reader.rest
    bucket = server.buckets[b]
    th1 = h("QFX/1 hello", u16(SUITE), h(bucket.body), m1[:HDR_SIZE])
    ck1 = extract(th1, bucket.kem.decaps(ct_b))
    inner = Reader(unseal(expand(ck1, "m1", th1, 32), c1, th1))
    tenant_id, ref, key_version = inner.take(16), inner.take(32), inner.integer(4)
    return OpenedHello(b, ek_e, c1, th1, ck1, tenant_id, ref, key_version, inner.take(SIG44))


def verify_m1(opened: OpenedHello, vk: bytes) -> None:
    """H3, the signature, under the registered key."""
    signed = h(opened.th1, opened.tenant_id, opened.ref, u32(opened.key_version))
    verify(vk, signed, opened.signature, "QFX1 dev")


def make_m2(
    server: Server, opened: OpenedHello, *,
    bucket: int, now: int, lifetime: int = LIFETIME_MAX, psk: bytes = NO_PSK,
) -> bytes:  # fmt: skip
    """H4, H5; *bucket* is the server's bucket."""
    ct_e, ss_e = encaps(opened.ek_e)
    sid = secrets.token_bytes(16)
    ck2 = extract(extract(opened.ck1, psk), ss_e)
    th2 = h(opened.th1, opened.c1, ct_e, sid)
    start = max(bucket, opened.b)
    terms = u64(start) + u16(lifetime) + u32(0)
    c2 = seal(expand(ck2, "m2", th2, 32), terms, th2)
    ticket = Ticket(
        form=HELLO, b=bucket, sid=sid, tenant_id=opened.tenant_id, ref=opened.ref,
        key_version=opened.key_version, hdr_b=opened.b, start=start,
        expiry=now + min(60, server.width), lifetime=lifetime, policy=0,
        secret=ck2, th=h(th2, c2),
    )  # fmt: skip
    sealed = ticket.seal(server.buckets[bucket].ticket_key)
    return u8(2) + u8(VERSION) + sid + ct_e + c2 + sealed


def take_m2(device: Device, pending: Pending, m2: bytes) -> tuple[bytes, Agreement]:
    """H6, H7: returns M3 and what was agreed."""
    reader = message(m2, kind=2, size=M2_SIZE)
    sid, ct_e, c2, ticket = reader.take(16), reader.take(CT), reader.take(14 + TAG), reader.rest
    ck2 = extract(extract(pending.ck1, device.psk), pending.ephemeral.decaps(ct_e))
    th2 = h(pending.th1, pending.m1[HDR_SIZE:], ct_e, sid)
    terms = Reader(unseal(expand(ck2, "m2", th2, 32), c2, th2))
    start, lifetime, policy = terms.integer(8), terms.integer(2), terms.integer(4)
    require(start - pending.b in (0, 1), "start")
    require(1 <= lifetime <= LIFETIME_MAX, "lifetime")
    require(policy == 0, "policy")
    agreement = Agreement(
        form=HELLO, server_id=device.server_id, sid=sid, tenant_id=device.tenant_id,
        ref=device.ref, key_version=device.key_version, hdr_b=pending.b, start=start,
        lifetime=lifetime, policy=policy, ck2=ck2, th3=h(th2, c2),
    )  # fmt: skip
    return u8(3) + u8(VERSION) + ticket + agreement.device_tag, agreement


def take_m3(server: Server, m3: bytes, *, now: int) -> Agreement:
    """H8 up to the transaction."""
    reader = message(m3, kind=3, size=M3_SIZE)
    keys = {b: bucket.ticket_key for b, bucket in server.buckets.items()}
    ticket = open_ticket(reader.take(SIZE[HELLO]), keys, form=HELLO, now=now)
    agreement = Agreement(
        form=HELLO, server_id=server.server_id, sid=ticket.sid, tenant_id=ticket.tenant_id,
        ref=ticket.ref, key_version=ticket.key_version, hdr_b=ticket.hdr_b, start=ticket.start,
        lifetime=ticket.lifetime, policy=ticket.policy, ck2=ticket.secret, th3=ticket.th,
    )  # fmt: skip
    require(hmac.compare_digest(reader.take(32), agreement.device_tag), "device tag")
    return agreement
