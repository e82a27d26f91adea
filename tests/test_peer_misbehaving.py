"""A peer that holds the right keys but breaks a rule is refused: what no bit flip can show, for every tag is right."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from peer import agreement as h9
from peer import enrol, hello, offer
from peer.identity import Announcement, Device, Server
from peer.notation import SUITE, KemKey, SigKey, encaps, expand, extract, h, seal, u8, u16, u32, u64
from peer.ticket import Ticket
from qflare.errors import AuthenticationError, RefusedError
from qflare.model.ids import TenantId
from qflare.model.refusal import Refusal
from qflare.primitives import kem as our_kem
from qflare.protocol.announcement import verify_announcement
from qflare.protocol.bucket import BucketKeys
from qflare.protocol.confirm import Confirmation, confirm_hellos
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment import check_enrolments, open_enrolments
from qflare.protocol.enrolment_device import accept_enrolled, start_enrolment
from qflare.protocol.hello import answer_hellos, open_hellos
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.identity import ServerIdentity, decode_identity
from qflare.protocol.offer import confirm_answers, open_answers
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.seen import SeenHellos
from qflare.protocol.token import decode_token
from qflare.secret import SecretBytes

if TYPE_CHECKING:
    from qflare.protocol.device_identity import DeviceIdentity
    from qflare.protocol.pending import PendingConfirmation

B = 5_000_000
NOW = B * 300 + 7
BAD_EK = b"\xff" * 1568
"""Every coefficient is 4095, above q: fails the check of FIPS 203, section 7.2."""


@pytest.fixture(scope="module")
def server() -> Server:
    """The misbehaving server; also the honest one that a misbehaving device meets."""
    made = Server()
    made.open_bucket(B)
    return made


@pytest.fixture(scope="module")
def identity(server: Server) -> ServerIdentity:
    """Its CERT as the project's device accepts it."""
    return decode_identity(server.cert(serial=1, first=B, last=B + 9), server_id=server.server_id)


@pytest.fixture(scope="module")
def device(server: Server) -> DeviceIdentity:
    """The project's device."""
    with DeviceKeys.generate() as keys:
        return keys.identity(
            server_id=server.server_id, tenant_id=TenantId(bytes(16)), device_id="x", key_version=1, psk=None
        )


@pytest.fixture(scope="module")
def keyring(server: Server, identity: ServerIdentity) -> dict[int, BucketKeys]:
    """The same server's buckets in the project's hands."""
    bucket = server.buckets[B]
    announcement = verify_announcement(bucket.announcement, identity.certificate)
    dk = our_kem.generate_from_seed(bucket.kem.seed).decapsulation_key
    return {
        B: BucketKeys(
            announcement=announcement, decapsulation_key=dk, ticket_key=SecretBytes.copy_of(bucket.ticket_key)
        )
    }


def m2_with(opened: hello.OpenedHello, *, start: int, lifetime: int, policy: int) -> bytes:
    """An M2 whose tag is right whatever the terms are."""
    ct_e, ss_e = encaps(opened.ek_e)
    sid = secrets.token_bytes(16)
    ck2 = extract(extract(opened.ck1, bytes(64)), ss_e)
    th2 = h(opened.th1, opened.c1, ct_e, sid)
    c2 = seal(expand(ck2, "m2", th2, 32), u64(start) + u16(lifetime) + u32(policy), th2)
    return bytes((2, 1)) + sid + ct_e + c2 + bytes(263)


BAD_TERMS = [(B + 2, 9, 0), (B - 1, 9, 0), (B, 0, 0), (B, 289, 0), (B, 9, 1), (B, 9, 1 << 31)]


@pytest.mark.parametrize("terms", BAD_TERMS)
def test_device_refuses_terms_that_break_a_rule(
    server: Server, keyring: dict, device: DeviceIdentity, terms: tuple[int, int, int]
) -> None:
    """An M2 that opens with another start, lifetime or policy than H6 allows ends the handshake."""
    pending = start_hello(device, keyring[B].announcement)
    opened = hello.open_m1(server, pending.message, live=(B,))
    start, lifetime, policy = terms
    with pytest.raises(RefusedError):
        accept_hello(pending, m2_with(opened, start=start, lifetime=lifetime, policy=policy), device)
    good = m2_with(opened, start=B + 1, lifetime=288, policy=0)
    assert accept_hello(pending, good, device).start == B + 1


@pytest.mark.parametrize(("start", "lifetime", "policy"), [(B + 1, 9, 0), *BAD_TERMS[1:]])
def test_device_refuses_an_offer_that_breaks_a_rule(
    keyring: dict, device: DeviceIdentity, start: int, lifetime: int, policy: int
) -> None:
    """An OFFER whose start is not its bucket, or with terms out of range, is not answered."""
    ct_d, _ = encaps(device.encapsulation_key)

    def made(start: int, lifetime: int, policy: int) -> bytes:
        terms = u64(B) + u64(start) + u16(lifetime) + u32(policy)
        return bytes((6, 1)) + u16(SUITE) + terms + bytes(16) + ct_d + bytes(231)

    with pytest.raises(AuthenticationError):
        accept_offer(made(start, lifetime, policy), device, keyring[B].announcement)
    assert accept_offer(made(B, 288, 0), device, keyring[B].announcement).lifetime == 288


def their_device(server: Server) -> tuple[Device, Announcement]:
    """A device of the second implementation, and the announcement it uses."""
    device = Device(secrets.token_bytes(16), "y", server.server_id)
    device.take_cert(server.cert(serial=1, first=B, last=B + 9))
    return device, device.take_announcement(server.buckets[B].announcement)


class BadEphemeral(KemKey):
    """An ML-KEM key whose public half no one may encapsulate to."""

    def __init__(self) -> None:
        super().__init__()
        self.ek = BAD_EK


def test_server_refuses_an_ephemeral_key_above_q(
    server: Server, keyring: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rightly signed M1 with an ek_e that fails FIPS 203, section 7.2, is refused, and its neighbour is answered."""
    device, announcement = their_device(server)
    good = hello.make_m1(device, announcement)
    monkeypatch.setattr(hello, "KemKey", BadEphemeral)
    bad = hello.make_m1(device, announcement)
    credential = DeviceCredential(
        key_version=1, is_accepted=True, verification_key=device.signing.vk, encapsulation_key=device.kem.ek
    )
    with open_hellos([bad.m1, good.m1], keyring, server_bucket=B, seen=SeenHellos()) as opened:
        answers = answer_hellos(opened, [credential] * 2, keyring, server_bucket=B, now_s=NOW)
    assert answers[0] is Refusal.ENCAPSULATION_KEY
    assert isinstance(answers[1], bytes)


def test_server_refuses_to_enrol_a_key_above_q(server: Server, keyring: dict) -> None:
    """A rightly signed ENROL with an ek_D that fails FIPS 203, section 7.2, is refused."""
    device, announcement = their_device(server)
    token = enrol.Token(device.tenant_id, bytes(16), bytes(32), server.server_id)
    device.kem.ek = BAD_EK
    pending = enrol.make_enrol(device, token, announcement)
    with open_enrolments([pending.enrol], keyring, server_bucket=B) as opened:
        assert check_enrolments(opened, ["y"]) == [Refusal.ENCAPSULATION_KEY]


def test_device_refuses_to_be_enrolled_without_a_key_version(server: Server, keyring: dict) -> None:
    """An ENROLLED that opens with key_version 0 is refused."""
    token = decode_token(enrol.Token(bytes(16), bytes(16), bytes(32), server.server_id).text())
    with DeviceKeys.generate() as keys:
        pending = start_enrolment(token, "z", keyring[B].announcement, keys)
        opened = enrol.open_enrol(server, pending.message, live=(B,))
        with pytest.raises(RefusedError):
            accept_enrolled(pending, enrol.make_enrolled(opened, key_version=0, mark=B), keys)
        assert accept_enrolled(pending, enrol.make_enrolled(opened, key_version=1, mark=B), keys).key_version == 1


GOOD_TICKET = Ticket(
    form=1, b=B, sid=bytes(16), tenant_id=bytes(16), ref=bytes(32), key_version=1, hdr_b=B, start=B,
    expiry=NOW + 60, lifetime=9, policy=0, secret=bytes(range(64)), th=bytes(64),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({}, None),
        ({"expiry": NOW}, Refusal.EXPIRED),
        ({"expiry": NOW + 1}, None),
        ({"lifetime": 0}, Refusal.TICKET),
        ({"lifetime": 289}, Refusal.TICKET),
        ({"b": B + 1}, Refusal.BUCKET),
        ({"form": 2}, Refusal.TICKET),
    ],
)
def test_server_refuses_a_ticket_that_it_could_not_have_made(
    server: Server, keyring: dict, change: dict, refusal: Refusal | None
) -> None:
    """A ticket sealed under the true TK is still checked for form, bucket, lifetime and expiry."""
    made = replace(GOOD_TICKET, **change)
    tag = expand(made.secret, "fin d", made.th, 32)
    m3 = bytes((3, 1)) + made.seal(server.buckets[B].ticket_key) + tag
    [found] = confirm_hellos([m3], keyring, now_s=NOW, server_id=server.server_id)
    if refusal is None:
        assert isinstance(found, Confirmation)
    else:
        assert found is refusal


def test_server_refuses_an_answer_without_the_bucket_s_secret(server: Server, keyring: dict) -> None:
    """Whoever holds a device's KEM key but encapsulated to another bucket key passes "pre" and fails "fin d"."""
    device, announcement = their_device(server)
    made = offer.make_offer(
        server, ek_d=device.kem.ek, tenant_id=device.tenant_id, ref=device.ref, key_version=1, bucket=B
    )
    answer, _ = offer.take_offer(device, replace(announcement, ek=KemKey().ek), made)
    with open_answers([answer], keyring, now_s=NOW) as opened:
        assert not isinstance(opened.claims[0], Refusal)
        assert confirm_answers(opened, [None], server_id=server.server_id) == [Refusal.TAG]


@pytest.fixture(scope="module")
def waiting(server: Server, keyring: dict, device: DeviceIdentity) -> tuple[PendingConfirmation, h9.Agreement]:
    """The project's device waiting for M4, and what the server agreed on."""
    made = offer.make_offer(
        server, ek_d=device.encapsulation_key, tenant_id=bytes(16), ref=device.ref, key_version=1, bucket=B
    )
    pending = accept_offer(made, device, keyring[B].announcement)
    return pending, offer.take_answer(server, pending.message, now=NOW)


def receipt_with(
    server: Server,
    entry: bytes,
    *,
    index: int = 0,
    path: int = 1,
    size: int = 2,
    time: int = NOW,
    start: int = 0,
    log: SigKey | None = None,
    context: str = "",
    origin: str | None = None,
) -> bytes:
    """A receipt whose signature is right for what it states, unless a key, context, origin or start is given."""
    siblings = [h9.leaf_hash(bytes([at])) for at in range(path)]
    root = h9.leaf_hash(entry)
    for sibling in siblings:
        root = h9.node_hash(root, sibling)
    name = u8(len(origin or server.log_origin)) + (origin or server.log_origin).encode("ascii")
    signed = b"subtree/v1\n\x00" + name + u64(time) + name + u64(start) + u64(size) + root
    signature = (log or server.log).sign(signed, context)
    return u64(index) + u64(size) + u64(time) + u8(path) + b"".join(siblings) + signature


@pytest.mark.parametrize(
    "change",
    [
        {"index": 2},
        {"index": 1 << 63},
        {"path": 2},
        {"path": 0},
        {"size": 0},
        {"size": 3, "path": 1},
        {"time": 0},
        {"time": 1 << 63},
        {"start": 1},
        {"context": "QFX1 ann"},
        {"origin": "log.example.org/other"},
        {"size": 1 << 49, "path": 49},
    ],
)
def test_device_refuses_a_receipt_that_breaks_a_rule(
    server: Server, identity: ServerIdentity, device: DeviceIdentity, waiting: tuple, change: dict
) -> None:
    """A receipt that the log key signed is still checked for index, size, time, path, origin and context."""
    pending, agreement = waiting

    def m4(**terms: object) -> bytes:
        return h9.make_m4(agreement, receipt_with(server, agreement.leaf_entry, **terms))

    with pytest.raises(AuthenticationError):
        accept_confirmation(pending, m4(**change), identity, device, log_mark=None)
    assert accept_confirmation(pending, m4(), identity, device, log_mark=None).log_mark.size == 2


def test_device_refuses_a_receipt_under_another_key(
    server: Server, identity: ServerIdentity, device: DeviceIdentity, waiting: tuple
) -> None:
    """Only the log key of CERT signs receipts: not the announce key, not another."""
    pending, agreement = waiting
    for log in (SigKey(), server.announce):
        m4 = h9.make_m4(agreement, receipt_with(server, agreement.leaf_entry, log=log))
        with pytest.raises(AuthenticationError):
            accept_confirmation(pending, m4, identity, device, log_mark=None)


def test_device_refuses_the_receipt_of_another_leaf(
    server: Server, identity: ServerIdentity, device: DeviceIdentity, waiting: tuple
) -> None:
    """A true receipt for an entry that differs in form, start or who is refused."""
    pending, agreement = waiting
    for other in (
        replace(agreement, form=1),
        replace(agreement, start=B + 1),
        replace(agreement, key_version=2),
        replace(agreement, ref=bytes(32)),
        replace(agreement, sid=bytes(16)),
    ):
        m4 = h9.make_m4(agreement, receipt_with(server, other.leaf_entry))
        with pytest.raises(AuthenticationError):
            accept_confirmation(pending, m4, identity, device, log_mark=None)
