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
    for sealed in traffic.records:
        sid, b = sealed[3:19], int.from_bytes(sealed[19:27], "big")
        held = [at for (its, at) in chains if its == sid and at <= b]
        if held:
            key = chains[sid, max(held)]
            for step in range(max(held) + 1, b + 1):
                key = peer_record.turn(key, step, sid)
            k, bound = peer_record.stream_key(key, sealed[:48]), h(sealed[:48], b"")
            opened.records.add(unseal(k, sealed[48:], bound, u64(0) + bytes(3) + b"\x01"))
    return opened


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
