"""The second implementation's device against its own server: docs/protocol.md is complete and consistent."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace

import pytest

from peer import agreement as h9
from peer import enrol, hello, mapping, notation, offer, record
from peer.identity import Announcement, Device, Server
from peer.notation import KemKey, Refused, SigKey

B = 5_000_000
NOW = B * 300 + 7
LIVE = (B - 1, B, B + 1)


@dataclass
class World:
    """A server with three live buckets and a device that knows it."""

    server: Server
    device: Device
    announcements: dict[int, Announcement]
    leaves: list[bytes] = field(default_factory=lambda: [h9.leaf_hash(b"first")])

    def commit(self, agreement: h9.Agreement) -> bytes:
        """Append the leaf to the log and return the receipt."""
        self.leaves += [h9.leaf_hash(agreement.leaf_entry), h9.leaf_hash(secrets.token_bytes(9))]
        return receipt_at(self.server, self.leaves, len(self.leaves) - 2)


def make_device(server: Server, device_id: str = "pump-7 ü") -> Device:
    """A device that has accepted CERT."""
    device = Device(secrets.token_bytes(16), device_id, server.server_id)
    device.take_cert(server.cert(serial=3, first=B - 10, last=B + 10))
    return device


@pytest.fixture(scope="module")
def world() -> World:
    """One server and one device for all tests that only read them."""
    server = Server()
    data = {b: server.open_bucket(b) for b in LIVE}
    device = make_device(server)
    return World(server, device, {b: device.take_announcement(data[b]) for b in LIVE})


def receipt_at(server: Server, leaves: list[bytes], index: int) -> bytes:
    """A receipt for the leaf at *index* of a log."""
    return h9.make_receipt(leaves, index, time=NOW, log=server.log, origin=server.log_origin)


def run_hello(world: World, *, b: int = B, bucket: int = B) -> tuple[h9.Agreement, h9.Agreement]:
    """M1 to M4; returns the device's and the server's view."""
    pending = hello.make_m1(world.device, world.announcements[b])
    opened = hello.open_m1(world.server, pending.m1, live=LIVE)
    hello.verify_m1(opened, world.device.signing.vk)
    m2 = hello.make_m2(world.server, opened, bucket=bucket, now=NOW, psk=world.device.psk)
    m3, mine = hello.take_m2(world.device, pending, m2)
    theirs = hello.take_m3(world.server, m3, now=NOW + 1)
    m4 = h9.make_m4(theirs, world.commit(theirs))
    h9.take_m4(world.device, mine, m4)
    assert (len(pending.m1), len(m2), len(m3)) == (5636, 1879, 297)
    assert len(m4) == 2495 + 32 * m4[74]
    return mine, theirs


def run_offer(world: World) -> tuple[h9.Agreement, h9.Agreement]:
    """OFFER to M4; returns the device's and the server's view."""
    device = world.device
    made = offer.make_offer(
        world.server, ek_d=device.kem.ek, tenant_id=device.tenant_id, ref=device.ref,
        key_version=device.key_version, bucket=B,
    )  # fmt: skip
    answer, mine = offer.take_offer(device, world.announcements[B], made)
    theirs = offer.take_answer(world.server, answer, now=NOW, psk=device.psk)
    h9.take_m4(device, mine, h9.make_m4(theirs, world.commit(theirs)))
    assert (len(made), len(answer)) == (1841, 1849)
    return mine, theirs


@pytest.mark.parametrize("psk", [notation.NO_PSK, bytes(range(64))], ids=["no-psk", "psk"])
@pytest.mark.parametrize("form", ["hello", "offer"])
def test_handshake_agrees_on_every_value(world: World, form: str, psk: bytes) -> None:
    """Both sides of a finished handshake hold the same terms, chain key and leaf."""
    psk_world = replace(world, device=replace(world.device, psk=psk))
    run = run_hello if form == "hello" else run_offer
    mine, theirs = run(psk_world)
    assert mine == theirs
    assert len(mine.leaf_entry) == 165


@pytest.mark.parametrize(("b", "bucket"), [(B - 1, B), (B, B), (B + 1, B)])
def test_hello_starts_at_the_later_bucket(world: World, b: int, bucket: int) -> None:
    """A hello under any live announcement starts at max(server's bucket, hdr.b)."""
    mine, _ = run_hello(world, b=b, bucket=bucket)
    assert mine.start == max(b, bucket)


def test_device_refuses_a_start_two_ahead(world: World) -> None:
    """A device refuses a start that is not its own bucket or the next."""
    pending = hello.make_m1(world.device, world.announcements[B - 1])
    opened = hello.open_m1(world.server, pending.m1, live=LIVE)
    m2 = hello.make_m2(world.server, opened, bucket=B + 1, now=NOW)
    with pytest.raises(Refused, match="start"):
        hello.take_m2(world.device, pending, m2)


def test_wrong_psk_does_not_open(world: World) -> None:
    """An M2 made with another psk does not open."""
    pending = hello.make_m1(world.device, world.announcements[B])
    opened = hello.open_m1(world.server, pending.m1, live=LIVE)
    m2 = hello.make_m2(world.server, opened, bucket=B, now=NOW, psk=bytes([1] * 64))
    with pytest.raises(Refused, match="AEAD tag"):
        hello.take_m2(world.device, pending, m2)


def test_hello_is_refused_under_another_identity_key(world: World) -> None:
    """The signature in M1 is checked under the registered key."""
    opened = hello.open_m1(world.server, hello.make_m1(world.device, world.announcements[B]).m1, live=LIVE)
    with pytest.raises(Refused, match="QFX1 dev"):
        hello.verify_m1(opened, SigKey().vk)


def test_expired_ticket_is_refused(world: World) -> None:
    """A hello's ticket is valid while now < expiry, 60 s after M2."""
    pending = hello.make_m1(world.device, world.announcements[B])
    opened = hello.open_m1(world.server, pending.m1, live=LIVE)
    m3, _ = hello.take_m2(world.device, pending, hello.make_m2(world.server, opened, bucket=B, now=NOW))
    hello.take_m3(world.server, m3, now=NOW + 59)
    with pytest.raises(Refused, match="expired"):
        hello.take_m3(world.server, m3, now=NOW + 60)


def test_offer_is_answered_again_with_the_ticket_at_hand(world: World) -> None:
    """The same offer under a new ticket gets the same answer with that ticket."""
    device = world.device
    made = offer.make_offer(
        world.server, ek_d=device.kem.ek, tenant_id=device.tenant_id, ref=device.ref,
        key_version=device.key_version, bucket=B,
    )  # fmt: skip
    first, _ = offer.take_offer(device, world.announcements[B], made)
    other = made[:1610] + secrets.token_bytes(231)
    second, _ = offer.take_offer(device, world.announcements[B], other)
    device.answers.clear()
    assert second == first[:2] + other[1610:] + first[233:]


def test_offer_for_another_key_does_not_agree(world: World) -> None:
    """An offer made to another ek_D fails at the server's first tag."""
    device = world.device
    made = offer.make_offer(
        world.server, ek_d=KemKey().ek, tenant_id=device.tenant_id, ref=device.ref,
        key_version=device.key_version, bucket=B,
    )  # fmt: skip
    answer, _ = offer.take_offer(device, world.announcements[B], made)
    device.answers.clear()
    with pytest.raises(Refused, match="pre tag"):
        offer.take_answer(world.server, answer, now=NOW)


def test_enrolment_hands_over_key_version_and_mark(world: World) -> None:
    """A device that holds the token enrols, and stores key_version and mark."""
    token = enrol.Token(
        world.device.tenant_id, secrets.token_bytes(16), secrets.token_bytes(32),
        world.server.server_id,
    )  # fmt: skip
    assert enrol.read_token(token.text()) == token
    device = replace(world.device, mark=0, key_version=0)
    pending = enrol.make_enrol(device, token, world.announcements[B])
    opened = enrol.open_enrol(world.server, pending.enrol, live=LIVE)
    enrol.verify_enrol(opened, secret_hash=notation.h(token.secret), device_id=device.device_id)
    enrolled = enrol.make_enrolled(opened, key_version=1, mark=B)
    enrol.take_enrolled(device, pending, enrolled)
    assert (device.key_version, device.mark) == (1, B)
    assert (len(pending.enrol), len(enrolled)) == (6960, 1598)
    assert (opened.vk, opened.ek) == (device.signing.vk, device.kem.ek)


def test_token_text_has_one_spelling(world: World) -> None:
    """A token in lower case, with spare bits set or cut short is refused."""
    text = enrol.Token(bytes(16), bytes(16), bytes(32), world.server.server_id).text()
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".index(text[-1])
    spare = text[:-1] + "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[last | 1]
    for wrong in (text.lower(), spare, text[:-1], text + "A"):
        with pytest.raises(Refused):
            enrol.read_token(wrong)


def test_rotation_is_signed_by_both_keys(world: World) -> None:
    """ROTATE counts key_version by one and is refused under another old key."""
    device, signing, kem = world.device, SigKey(), KemKey()
    body = enrol.make_rotate(device, signing, kem)
    terms = {"server_id": device.server_id, "ref": device.ref, "key_version": 1}
    assert len(body) == 7725
    assert enrol.take_rotate(body, vk=device.signing.vk, **terms) == (2, signing.vk, kem.ek)
    with pytest.raises(Refused, match="QFX1 rot"):
        enrol.take_rotate(body, vk=signing.vk, **terms)


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 2**19])
def test_records_open_at_every_segment_boundary(world: World, size: int) -> None:
    """A message of any size opens to the same bytes and has the length of N3."""
    mine, theirs = run_hello(world)
    writer = record.Session.of(mine, record.TO_SERVER)
    reader = record.Session.of(theirs, record.TO_DEVICE)
    plaintext = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sealed = writer.seal(plaintext, b"round 4", b=B)
    assert len(sealed) == 48 + size + 16 * max(1, -(-size // 2**18))
    assert reader.open(sealed, b"round 4") == plaintext


def test_record_is_taken_once_and_only_in_its_direction(world: World) -> None:
    """A record is refused when repeated, reflected, given other AAD or cut after a segment."""
    mine, theirs = run_hello(world)
    writer = record.Session.of(mine, record.TO_SERVER)
    reader = record.Session.of(theirs, record.TO_DEVICE)
    sealed = writer.seal(bytes(2**18 + 5), b=B)
    for wrong in (sealed[: 48 + 2**18 + 16], sealed[:-1], sealed + bytes(16)):
        with pytest.raises(Refused):
            reader.open(wrong)
    with pytest.raises(Refused, match="AEAD tag"):
        reader.open(sealed, b"other")
    with pytest.raises(Refused, match="direction"):
        writer.open(sealed)
    reader.open(sealed)
    with pytest.raises(Refused, match="replayed"):
        reader.open(sealed)


def test_sleeping_reader_hashes_forward_and_never_back(world: World) -> None:
    """A reader opens a far bucket, keeps it and the one before, and has lost what is older."""
    mine, theirs = run_hello(world)
    writer = record.Session.of(mine, record.TO_SERVER)
    reader = record.Session.of(theirs, record.TO_DEVICE)
    old, late, far = (writer.seal(b"x", b=B + step) for step in (2, 99, 100))
    assert reader.open(far) == b"x"
    assert reader.open(late) == b"x"
    with pytest.raises(Refused, match="bucket"):
        reader.open(old)
    with pytest.raises(Refused, match="bucket"):
        writer.seal(b"x", b=B + 288)
    with pytest.raises(Refused, match="window"):
        reader.open(writer.seal(b"x", b=B + 102), window=range(B + 99, B + 102))


def test_mapping_gives_both_sides_the_same_keys(world: World) -> None:
    """Server and device derive the same key for a bucket and a purpose, and differ elsewhere."""
    kem, server_key, ref = KemKey(), SigKey(), world.device.ref
    descriptor, theirs = mapping.make_mapping(ek_d=kem.ek, ref=ref, server=server_key, b=B)
    mine = mapping.take_mapping(descriptor, kem=kem, ref=ref, server_vk=server_key.vk)
    assert len(descriptor) == 4126
    assert mine == theirs
    keys = {mine.key(b, purpose) for b in (B, B + 3) for purpose in ("model", "metrics")}
    assert len(keys) == 4
    for wrong in ({"ref": bytes(32)}, {"kem": KemKey()}, {"server_vk": SigKey().vk}):
        with pytest.raises(Refused):
            mapping.take_mapping(descriptor, **({"kem": kem, "ref": ref, "server_vk": server_key.vk} | wrong))


@pytest.mark.parametrize("size", range(1, 18))
def test_inclusion_holds_for_every_leaf_and_only_there(size: int) -> None:
    """A path leads to the root from its own index and from no other."""
    leaves = [h9.leaf_hash(bytes([n])) for n in range(size)]
    root = h9.root_hash(leaves)
    for index in range(size):
        path = h9.inclusion_path(leaves, index)
        assert h9.root_from_path(leaves[index], index, size, path) == root
        for other in range(size):
            if other != index:
                try:
                    found = h9.root_from_path(leaves[index], other, size, path)
                except Refused:
                    continue
                assert found != root


def test_receipt_is_bound_to_leaf_time_and_root(world: World) -> None:
    """A receipt fails for another leaf, another time, and a second root of one size."""
    mine, theirs = run_hello(world)
    leaves = [h9.leaf_hash(theirs.leaf_entry), h9.leaf_hash(b"a"), h9.leaf_hash(b"b")]
    receipt = receipt_at(world.server, leaves, 0)
    later = receipt[:23] + bytes([receipt[23] ^ 1]) + receipt[24:]
    wanted = {"log_vk": world.server.log.vk, "origin": world.server.log_origin}
    for entry, data in ((mine.leaf_entry + b"x", receipt), (mine.leaf_entry, later)):
        with pytest.raises(Refused, match="receipt"):
            h9.check_receipt(data, entry, **wanted)
    device = make_device(world.server)
    h9.take_m4(device, mine, h9.make_m4(theirs, receipt))
    forked = receipt_at(world.server, [*leaves[:2], h9.leaf_hash(b"c")], 0)
    with pytest.raises(Refused, match="two roots"):
        h9.take_m4(device, mine, h9.make_m4(theirs, forked))


def test_cert_and_announcement_are_refused_when_they_step_back(world: World) -> None:
    """A serial that falls or is reused, a bucket below the mark and another server are refused."""
    server = world.server
    device = make_device(server)
    cases = {
        "serial fell": server.cert(serial=2, first=B, last=B + 1),
        "serial reused": server.cert(serial=3, first=B, last=B + 1),
        "server_id": Server().cert(serial=4, first=B, last=B + 1),
    }
    for reason, served in cases.items():
        with pytest.raises(Refused, match=reason):
            device.take_cert(served)
    device.mark = B
    with pytest.raises(Refused, match="below the mark"):
        device.take_announcement(server.buckets[B - 1].announcement)
    with pytest.raises(Refused, match="outside CERT"):
        device.take_announcement(server.open_bucket(B + 11))
    device.take_announcement(server.buckets[B].announcement)
    twin = Server(root=server.root, announce=server.announce, log=server.log)
    with pytest.raises(Refused, match="two bodies"):
        device.take_announcement(twin.open_bucket(B))
