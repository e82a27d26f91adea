"""
Forward secrecy, computed (docs/protocol.md, S6): what an adversary with all traffic opens after taking memory at time t.

The traffic is the project's own, over many buckets.  The adversary is a computation over the second implementation
(tests/adversary.py).  What it opens must be exactly what the specification says.  The sealed database (R8) is in
tests/service/test_at_rest_proof.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from parties import BUCKET, WIDTH_S, Server, make_device, make_server

from adversary import Loot, Opened, Traffic, attack
from peer.notation import u64
from peer.ticket import HELLO, OFFER
from qflare.model.ids import DeviceId, SessionId
from qflare.primitives.random import random_secret
from qflare.protocol.chain import SessionChain
from qflare.protocol.confirm import Confirmation
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment_device import start_enrolment
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.record import new_header, seal_record
from qflare.protocol.token import new_token

if TYPE_CHECKING:
    from qflare.protocol.bucket import BucketKeys
    from qflare.protocol.device_identity import DeviceIdentity

FIRST, THEFT, LAST = BUCKET, BUCKET + 5, BUCKET + 9
LIFETIME = 4
WINDOW = range(THEFT - 1, THEFT + 2)
"""Buckets whose keys are in memory at the time of the theft (A4)."""


@dataclass
class Session:
    """What the test knows of a session, to say what should open."""

    name: int
    form: int
    bucket: int
    """The server's bucket when it began: names the ticket key."""
    sid: bytes
    start: int
    chain: SessionChain
    records: dict[int, list[bytes]] = field(default_factory=dict)


@dataclass
class Story:
    """Ten buckets of a server's life."""

    server: Server
    device: DeviceIdentity
    keys: dict[int, BucketKeys]
    traffic: Traffic = field(default_factory=Traffic)
    sessions: list[Session] = field(default_factory=list)

    def live_through(self, bucket: int) -> None:
        """Hellos under the bucket before, this one and the next; an offer; an enrolment."""
        server = self.server
        server.bucket, server.now_s = bucket, bucket * WIDTH_S + 5
        server.keyring = {b: self.keys[b] for b in range(bucket - 1, bucket + 2)}
        for hdr_b in (bucket - 1, bucket, bucket + 1):
            pending = start_hello(self.device, server.announcement(hdr_b))
            m2 = server.answer_hello(pending.message)
            waiting = accept_hello(pending, m2, self.device)
            name = self.begin(HELLO, server.confirm_hellos([waiting.message]))
            self.traffic.hellos.append((name, hdr_b, pending.message, m2, waiting.message))
        message = server.make_offer(self.device)
        waiting = accept_offer(message, self.device, server.announcement())
        name = self.begin(OFFER, server.confirm_answers([waiting.message]))
        self.traffic.offers.append((name, message, waiting.message))
        token = new_token(tenant_id=self.device.tenant_id, server_id=server.server_id)
        with DeviceKeys.generate() as keys:
            enrolment = start_enrolment(token, DeviceId("new"), server.announcement(), keys)
        self.traffic.enrolments.append((bucket, enrolment.message))

    def begin(self, form: int, confirmed: list) -> int:
        """Note a session and seal a record in each direction and bucket of its life."""
        [confirmation] = confirmed
        assert isinstance(confirmation, Confirmation)
        name, start, sid = len(self.sessions), confirmation.start, SessionId(confirmation.sid)
        chain = SessionChain.begin(confirmation.chain_key, sid=sid, start=start, lifetime=LIFETIME)
        session = Session(name, form, self.server.bucket, sid, start, chain)
        for b in range(start, start + LIFETIME):
            session.records[b] = []
            for direction in (1, 2):
                header = new_header(sid=sid, bucket=b, direction=direction)
                plaintext = u64(name) + u64(b) + bytes([direction])
                with chain.message_key(b, direction=direction, purpose=header.purpose) as mk:
                    self.traffic.records.append(seal_record(mk, header, plaintext))
                session.records[b].append(plaintext)
        self.sessions.append(session)
        return name

    def was_live(self, session: Session) -> bool:
        """Whether the server held a chain key of the session in bucket THEFT."""
        return session.bucket <= THEFT and session.start + LIFETIME > WINDOW[0]


@pytest.fixture(scope="module")
def story() -> Story:
    """Sessions that ended, live and begin later, around one theft."""
    server = make_server()
    for b in range(FIRST - 1, LAST + 2):
        if b not in server.keyring:
            server.publish(b)
    told = Story(server, make_device(server), dict(server.keyring))
    for b, keys in told.keys.items():
        told.traffic.bodies[b] = keys.announcement.encoded[:1622]
    for b in range(FIRST, LAST + 1):
        told.live_through(b)
    return told


def loot_of_memory(story: Story) -> Loot:
    """Memory and keeper of the server in bucket THEFT, with every long-term key (A4, R1)."""
    loot = Loot(devices=[story.device])
    for b in WINDOW:
        loot.dks[b] = bytes(story.keys[b].decapsulation_key.view())
        loot.tks[b] = bytes(story.keys[b].ticket_key.view())
    for session in story.sessions:
        if story.was_live(session):
            keys = session.chain.export_keys()
            with SessionChain(keys, sid=session.sid, start=session.start, lifetime=LIFETIME) as held:
                held.advance_to(THEFT)
                for b, key in held.export_keys().items():
                    loot.chain_keys[session.sid, b] = bytes(key.view())
    return loot


def test_theft_of_memory_opens_exactly_what_the_specification_says(story: Story) -> None:
    """Live sessions from b-1 on; sessions whose ticket key was there; names and enrolments of b-1 to b+1; no more."""
    opened = attack(story.traffic, loot_of_memory(story))
    hellos = {name: hdr_b for name, hdr_b, *_ in story.traffic.hellos}
    assert opened.names == {name for name, hdr_b in hellos.items() if hdr_b in WINDOW}
    assert opened.enrolments == {b for b, _ in story.traffic.enrolments if b in WINDOW}
    assert opened.sessions == {session.name for session in story.sessions if session.bucket in WINDOW}
    expected = set()
    for session in story.sessions:
        for b, plaintexts in session.records.items():
            is_live = story.was_live(session) and b >= WINDOW[0]
            if session.bucket in WINDOW or is_live:
                expected.update(plaintexts)
    assert opened.records == expected
    everything = {plaintext for session in story.sessions for its in session.records.values() for plaintext in its}
    assert set() < expected < everything


def test_sessions_begun_after_the_keys_are_gone_are_out_of_reach(story: Story) -> None:
    """A handshake after bucket b+1 heals: nothing of it opens, though its M1 may have used b+1's announcement."""
    opened = attack(story.traffic, loot_of_memory(story))
    later = [session for session in story.sessions if session.bucket > WINDOW[-1]]
    assert len(later) >= 8
    for session in later:
        for plaintexts in session.records.values():
            assert not opened.records & set(plaintexts)


def test_long_term_keys_alone_open_nothing(story: Story) -> None:
    """The device's private keys, with all traffic, open no session, name or enrolment of either form."""
    assert attack(story.traffic, Loot(devices=[story.device])) == Opened()


def test_offers_need_ticket_key_and_bucket_key_together(story: Story) -> None:
    """TK_b without dk_b opens no offer; dk_b with dk_D opens the bucket's offers without TK_b (O4)."""
    whole = loot_of_memory(story)
    offers = {session.name for session in story.sessions if session.form == OFFER}
    in_window = {session.name for session in story.sessions if session.form == OFFER and session.bucket in WINDOW}
    assert not attack(story.traffic, Loot(tks=whole.tks)).sessions & offers
    assert not attack(story.traffic, Loot(dks=whole.dks)).sessions & offers
    assert attack(story.traffic, Loot(tks=whole.tks, dks=whole.dks)).sessions & offers == in_window
    assert attack(story.traffic, Loot(dks=whole.dks, devices=[story.device])).sessions & offers == in_window


def test_hellos_need_the_ticket_key(story: Story) -> None:
    """dk_b alone shows names and opens no hello; TK_b alone opens its bucket's hellos and shows no name (H5)."""
    whole = loot_of_memory(story)
    hellos = {session.name for session in story.sessions if session.form == HELLO}
    in_window = {session.name for session in story.sessions if session.form == HELLO and session.bucket in WINDOW}
    by_dk = attack(story.traffic, Loot(dks=whole.dks))
    assert not by_dk.sessions & hellos
    assert by_dk.names
    by_tk = attack(story.traffic, Loot(tks=whole.tks))
    assert by_tk.sessions & hellos == in_window
    assert not by_tk.names


def test_the_attack_fails_with_keys_of_another_server(story: Story) -> None:
    """The computation opens by the keys it holds and nothing else: with random ones every tag fails."""
    loot = Loot(tks={b: bytes(random_secret(32).view()) for b in range(FIRST - 1, LAST + 2)})
    assert attack(story.traffic, loot) == Opened()
