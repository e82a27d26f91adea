"""
The adversary of the forward-secrecy tests: a computation that derives, from what was taken and all traffic, what opens.

It works over the second implementation (tests/peer): it holds the secrets it took, and derives from them and from every
message whatever can be derived, to a fixed point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from peer import record as peer_record
from peer.notation import NO_PSK, Refused, expand, extract, h, u16, u32, u64, unseal
from peer.ticket import HELLO, OFFER, open_ticket
from qflare.primitives import kem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qflare.protocol.device_identity import DeviceIdentity


@dataclass
class Traffic:
    """Everything that went over the network, and what is public."""

    bodies: dict[int, bytes] = field(default_factory=dict)
    hellos: list[tuple[int, int, bytes, bytes, bytes]] = field(default_factory=list)
    """(name, hdr.b, M1, M2, M3)"""
    offers: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    """(name, OFFER, ANSWER)"""
    enrolments: list[tuple[int, bytes]] = field(default_factory=list)
    """(hdr.b, ENROL)"""
    records: list[bytes] = field(default_factory=list)


@dataclass
class Loot:
    """What was taken."""

    dks: dict[int, bytes] = field(default_factory=dict)
    tks: dict[int, bytes] = field(default_factory=dict)
    chain_keys: dict[tuple[bytes, int], bytes] = field(default_factory=dict)
    devices: Sequence[DeviceIdentity] = ()
    """The devices' long-term keys and their rows of the roster."""
    epochs: dict[tuple[bytes, int, int], bytes] = field(default_factory=dict)
    """Chain keys of rekeyed sessions by sid, epoch and bucket (R7)."""
    reply_keys: dict[tuple[bytes, bytes], bytes] = field(default_factory=dict)
    """RK by sid and request id (R6)."""


@dataclass
class Opened:
    """What the adversary opened."""

    names: set[int] = field(default_factory=set)
    enrolments: set[int] = field(default_factory=set)
    sessions: set[int] = field(default_factory=set)
    records: set[bytes] = field(default_factory=set)


def decapsulate(dk: bytes, ct: bytes) -> bytes:
    """ML-KEM decapsulation with an expanded key, which the second implementation cannot import."""
    return bytes(kem.decapsulate(dk, ct).view())


Chains = dict[tuple[bytes, int], bytes]
"""Chain keys by sid and bucket."""


def attack(traffic: Traffic, loot: Loot) -> Opened:
    """Derive whatever follows from the loot and the traffic."""
    opened, chains = Opened(), dict(loot.chain_keys)
    attack_hellos(traffic, loot, opened, chains)
    attack_offers(traffic, loot, opened, chains)
    for hdr_b, message in traffic.enrolments:
        if hdr_b in loot.dks:
            th1 = h("QFX/1 enrol", u16(1), h(traffic.bodies[hdr_b]), message[:1580])
            ck1 = extract(th1, decapsulate(loot.dks[hdr_b], message[12:1580]))
            unseal(expand(ck1, "enr", th1, 32), message[1580:], th1)
            opened.enrolments.add(hdr_b)
    keys = {(sid, 0, b): key for (sid, b), key in chains.items()} | loot.epochs
    reply_keys = dict(loot.reply_keys)
    left = list(traffic.records)
    while True:
        # What opens may tell more: a request its reply's key, a REKEY the next epoch.
        closed = [sealed for sealed in left if not open_record(traffic, loot, keys, reply_keys, sealed, opened=opened)]
        if len(closed) == len(left):
            return opened
        left = closed


def chain_key_of(keys: dict[tuple[bytes, int, int], bytes], sealed: bytes) -> bytes | None:
    """The chain key of a record's epoch and bucket, hashed forward from what is held."""
    sid, b, epoch = sealed[3:19], int.from_bytes(sealed[19:27], "big"), int.from_bytes(sealed[27:31], "big")
    held = [at for (its, of, at) in keys if its == sid and of == epoch and at <= b]
    if not held:
        return None
    key = keys[sid, epoch, max(held)]
    for step in range(max(held) + 1, b + 1):
        key = peer_record.turn(key, step, sid)
    return key


def open_record(
    traffic: Traffic,
    loot: Loot,
    keys: dict[tuple[bytes, int, int], bytes],
    reply_keys: dict[tuple[bytes, bytes], bytes],
    sealed: bytes,
    *,
    opened: Opened,
) -> bool:
    """Open one record if it can be, and learn from it whatever it tells (R3, R6, R7)."""
    nonce, kind, sid = u64(0) + bytes(3) + b"\x01", sealed[2], sealed[3:19]
    if kind == peer_record.REPLY:
        rk = reply_keys.get((sid, sealed[48:64]))
        if rk is not None:
            k, bound = expand(rk, "stream", sealed[32:48], 32), h(sealed[:64], b"")
            opened.records.add(unseal(k, sealed[64:], bound, nonce))
        return rk is not None
    key = chain_key_of(keys, sealed)
    if key is None:
        return False
    k, bound = peer_record.stream_key(key, sealed[:48]), h(sealed[:48], b"")
    plaintext = unseal(k, sealed[48:], bound, nonce)
    opened.records.add(plaintext)
    if kind == peer_record.REQUEST:
        reply_keys[sid, sealed[32:48]] = expand(key, "reply", sealed[32:48], 64)
    if kind == peer_record.CONTROL and plaintext[:1] == b"\x01":
        b, epoch = int.from_bytes(plaintext[1:9], "big"), int.from_bytes(plaintext[9:13], "big")
        old = chain_key_of(keys, sealed[:19] + u64(b) + sealed[27:])
        if b in loot.dks and old is not None:
            ss_r = decapsulate(loot.dks[b], plaintext[13:])
            context = h(sid, u32(epoch), h(traffic.bodies[b]), plaintext[13:])
            keys[sid, epoch, b] = expand(extract(old, ss_r), "rekey", context, 64)
    return True


def attack_hellos(traffic: Traffic, loot: Loot, opened: Opened, chains: Chains) -> None:
    """With dk_b the name (H2); with TK_b the whole session (H5)."""
    for name, hdr_b, m1, m2, _ in traffic.hellos:
        if hdr_b in loot.dks:
            th1 = h("QFX/1 hello", u16(1), h(traffic.bodies[hdr_b]), m1[:3148])
            ck1 = extract(th1, decapsulate(loot.dks[hdr_b], m1[1580:3148]))
            unseal(expand(ck1, "m1", th1, 32), m1[3148:], th1)
            opened.names.add(name)
        try:
            ticket = open_ticket(m2[1616:], loot.tks, form=HELLO, now=0)
        except Refused:
            continue
        opened.sessions.add(name)
        chains[ticket.sid, ticket.start] = expand(ticket.secret, "chain", ticket.th, 64)


def attack_offers(traffic: Traffic, loot: Loot, opened: Opened, chains: Chains) -> None:
    """With ss_D (from TK_b or dk_D) and dk_b the whole session (O4)."""
    for name, message, answer in traffic.offers:
        b = int.from_bytes(message[4:12], "big")
        ct_b, pre = answer[233:1801], answer[1801:1817]
        for th1, ss_d in offer_secrets(traffic, loot, message):
            ck1, th3 = extract(th1, ss_d), h(th1, ct_b)
            # The adversary sees whether ss_D is right: it tries every device's key.
            if expand(ck1, "pre", th3, 16) == pre and b in loot.dks:
                ck2 = extract(extract(ck1, NO_PSK), decapsulate(loot.dks[b], ct_b))
                assert expand(ck2, "fin d", th3, 32) == answer[-32:]
                opened.sessions.add(name)
                chains[message[26:42], b] = expand(ck2, "chain", th3, 64)


def offer_secrets(traffic: Traffic, loot: Loot, message: bytes) -> list[tuple[bytes, bytes]]:
    """(th1, ss_D) of an OFFER, by the ticket key or by the device's own key."""
    found = []
    try:
        ticket = open_ticket(message[1610:], loot.tks, form=OFFER, now=0)
        found.append((ticket.th, ticket.secret))
    except Refused:
        pass
    for its in loot.devices:
        body = traffic.bodies[int.from_bytes(message[4:12], "big")]
        th1 = h(
            "QFX/1 offer", u16(1), h(body), h(its.encapsulation_key), its.tenant_id, its.ref, u32(its.key_version),
            message[:1610],
        )  # fmt: skip
        found.append((th1, decapsulate(its.decapsulation_key, message[42:1610])))
    return found
