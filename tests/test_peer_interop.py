"""The project's device against the second implementation's server, and the other way round."""

from __future__ import annotations

import secrets
from itertools import count

import pytest

from peer import agreement as h9
from peer import enrol, hello, mapping, offer, record, rekey, reply
from peer.identity import Announcement, Bucket, Device, Server, check_cert
from peer.notation import NO_PSK, KemKey, Refused, SigKey, h, u8, u16, u32, u64
from qflare.errors import AuthenticationError, DecodeError
from qflare.model.ids import RequestId, SessionId, StreamId, TenantId, TokenId
from qflare.model.refusal import Refusal
from qflare.protocol.bucket import decapsulate_by_bucket
from qflare.protocol.chain import SessionChain
from qflare.protocol.checkpoint import sign_checkpoint
from qflare.protocol.confirm import Confirmation, confirm_hellos, encode_confirmation, split_glued
from qflare.protocol.confirm_device import accept_confirmation
from qflare.protocol.credential import DeviceCredential
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment import EnrolmentRequest, answer_enrolments, check_enrolments, open_enrolments
from qflare.protocol.enrolment_device import accept_enrolled, start_enrolment
from qflare.protocol.hello import answer_hellos, open_hellos
from qflare.protocol.hello_device import accept_hello, start_hello
from qflare.protocol.log import Frontier, hash_leaf, inclusion_paths
from qflare.protocol.mapping import MappingSigner, accept_mapping, create_mappings
from qflare.protocol.offer import OfferTarget, confirm_answers, make_offers, open_answers
from qflare.protocol.offer_device import accept_offer
from qflare.protocol.receipt import encode_receipt
from qflare.protocol.record import RecordHeader, decode_header, new_header, open_record, seal_record
from qflare.protocol.rekey import (
    Rekey,
    accept_rekeyed,
    derive_rekeyed_many,
    encode_rekeyed,
    make_rekey,
    read_rekey,
)
from qflare.protocol.reply import derive_reply_key, new_reply_header
from qflare.protocol.rotation import Rotation, check_rotations, make_rotation
from qflare.protocol.seen import SeenHellos
from qflare.protocol.token import EnrolmentToken, decode_token
from qflare.secret import SecretBytes
from vectors import world as fixed
from vectors.stream import draw

B, NOW = fixed.BUCKET, fixed.NOW_S
SIZES = count(2)
PSKS = pytest.mark.parametrize("psk", [NO_PSK, bytes(range(1, 65))], ids=["no-psk", "psk"])


@pytest.fixture(scope="module")
def ours() -> fixed.World:
    """The project's view of the server."""
    return fixed.make_world()


@pytest.fixture(scope="module")
def theirs(ours: fixed.World) -> Server:
    """The second implementation's view of the same server."""
    made = Server(
        root=SigKey(draw("root", 32), is_root=True),
        announce=SigKey(draw("announce", 32)),
        log=SigKey(draw("log", 32)),
        log_origin=fixed.LOG_ORIGIN,
        width=fixed.WIDTH_S,
    )
    for b, keys in ours.keyring.items():
        kem = KemKey(draw(fixed.bucket_kem_seed(b), 64))
        made.buckets[b] = Bucket(keys.announcement.encoded, kem, draw(f"ticket key {b}", 32))
    return made


def their_device(ours: fixed.World, psk: bytes = NO_PSK) -> Device:
    """A device of the second implementation that has accepted CERT."""
    device = Device(secrets.token_bytes(16), "gateway é", ours.server_id, key_version=9, psk=psk)
    device.take_cert(ours.identity.served)
    return device


def announcement_for(device: Device, ours: fixed.World, b: int = B) -> Announcement:
    """The bucket's announcement, as the second implementation accepts it."""
    return device.take_announcement(ours.keyring[b].announcement.encoded)


def secret_psk(psk: bytes) -> SecretBytes | None:
    """The project writes no psk as None."""
    return None if psk == NO_PSK else SecretBytes.copy_of(psk)


def our_confirmation_m4(ours: fixed.World, confirmation: Confirmation) -> bytes:
    """M4 by the project, the leaf being the last but one of a log that nobody saw before."""
    size = next(SIZES)
    leaves = [hash_leaf(secrets.token_bytes(9)) for _ in range(size)]
    leaves[size - 2] = confirmation.leaf_hash
    frontier, _ = Frontier().append(leaves)
    checkpoint = sign_checkpoint(ours.log.signing_key, fixed.LOG_ORIGIN, size, frontier.root(), NOW)
    path = inclusion_paths([], 0, leaves)[size - 2]
    receipt = encode_receipt(size - 2, size, NOW, path, checkpoint.signature)
    return encode_confirmation(confirmation.sid, confirmation.server_tag, receipt)


def their_m4(theirs: Server, agreement: h9.Agreement) -> bytes:
    """M4 by the second implementation."""
    size = next(SIZES)
    leaves = [h9.leaf_hash(secrets.token_bytes(9)) for _ in range(size)]
    leaves[size - 1] = h9.leaf_hash(agreement.leaf_entry)
    receipt = h9.make_receipt(leaves, size - 1, time=NOW, log=theirs.log, origin=theirs.log_origin)
    return h9.make_m4(agreement, receipt)


def assert_records_pass(agreement: h9.Agreement, chain_key: SecretBytes, *, is_their_device: bool) -> None:
    """Records of both implementations open in the other, in both directions, over a turn and a long sleep."""
    direction = record.TO_SERVER if is_their_device else record.TO_DEVICE
    session = record.Session.of(agreement, direction)
    chain = SessionChain.begin(
        SecretBytes.copy_of(chain_key), sid=agreement.sid, start=agreement.start, lifetime=agreement.lifetime
    )
    for b in (agreement.start, agreement.start + 1, agreement.start + agreement.lifetime - 1):
        for size, aad in ((0, b""), (5, b"round 1"), (2**18, b""), (2**18 + 1, b"x")):
            plaintext = secrets.token_bytes(size)
            theirs = session.seal(plaintext, aad, b=b)
            header = decode_header(theirs)
            mk = chain.message_key(header.bucket, direction=direction, purpose=header.purpose)
            assert bytes(open_record(mk, theirs, aad=aad).view()) == plaintext
            header = new_header(sid=agreement.sid, bucket=b, direction=3 - direction)
            mk = chain.message_key(b, direction=3 - direction, purpose=header.purpose)
            assert session.open(seal_record(mk, header, plaintext, aad=aad), aad) == plaintext


@PSKS
@pytest.mark.parametrize("hdr_b", [B - 1, B, B + 1])
def test_their_device_says_hello_to_our_server(ours: fixed.World, hdr_b: int, psk: bytes) -> None:
    """A hello of the second implementation's device becomes a session on the project's server."""
    device = their_device(ours, psk)
    pending = hello.make_m1(device, announcement_for(device, ours, hdr_b))
    credential = DeviceCredential(
        key_version=9,
        is_accepted=True,
        verification_key=device.signing.vk,
        encapsulation_key=device.kem.ek,
        psk=secret_psk(psk),
    )
    with open_hellos([pending.m1], ours.keyring, server_bucket=B, seen=SeenHellos()) as opened:
        [m2] = answer_hellos(opened, [credential], ours.keyring, server_bucket=B, now_s=NOW, lifetime=3)
    m3, agreement = hello.take_m2(device, pending, m2)
    [confirmation] = confirm_hellos([m3], ours.keyring, now_s=NOW, server_id=ours.server_id)
    h9.take_m4(device, agreement, our_confirmation_m4(ours, confirmation))
    assert confirmation.start == agreement.start == max(B, hdr_b)
    assert_records_pass(agreement, confirmation.chain_key, is_their_device=True)


@PSKS
@pytest.mark.parametrize("hdr_b", [B - 1, B, B + 1])
def test_our_device_says_hello_to_their_server(ours: fixed.World, theirs: Server, hdr_b: int, psk: bytes) -> None:
    """A hello of the project's device becomes a session on the second implementation's server."""
    with DeviceKeys.generate() as keys:
        device = keys.identity(
            server_id=ours.server_id,
            tenant_id=TenantId(secrets.token_bytes(16)),
            device_id="gateway é",
            key_version=2,
            psk=secret_psk(psk),
        )
    pending = start_hello(device, ours.keyring[hdr_b].announcement)
    opened = hello.open_m1(theirs, pending.message, live=tuple(theirs.buckets))
    hello.verify_m1(opened, device.verification_key)
    assert (opened.ref, opened.key_version) == (device.ref, 2)
    m2 = hello.make_m2(theirs, opened, bucket=B, now=NOW, lifetime=3, psk=psk)
    waiting = accept_hello(pending, m2, device)
    agreement = hello.take_m3(theirs, waiting.message, now=NOW)
    session = accept_confirmation(waiting, their_m4(theirs, agreement), ours.identity, device, log_mark=None)
    assert_records_pass(agreement, session.chain_key, is_their_device=False)


@PSKS
def test_our_offer_is_answered_by_their_device(ours: fixed.World, psk: bytes) -> None:
    """An offer of the project's server becomes a session with the second implementation's device."""
    device = their_device(ours, psk)
    target = OfferTarget(TenantId(device.tenant_id), device.ref, 9, device.kem.ek)
    [made] = make_offers([target], ours.keyring[B], lifetime=3)
    answer, agreement = offer.take_offer(device, announcement_for(device, ours), made.message)
    with open_answers([answer], ours.keyring, now_s=NOW) as opened:
        [confirmation] = confirm_answers(opened, [secret_psk(psk)], server_id=ours.server_id)
    h9.take_m4(device, agreement, our_confirmation_m4(ours, confirmation))
    assert not device.answers
    assert_records_pass(agreement, confirmation.chain_key, is_their_device=True)


@PSKS
def test_their_offer_is_answered_by_our_device(ours: fixed.World, theirs: Server, psk: bytes) -> None:
    """An offer of the second implementation's server becomes a session with the project's device."""
    with DeviceKeys.generate() as keys:
        device = keys.identity(
            server_id=ours.server_id, tenant_id=TenantId(bytes(16)), device_id="x", key_version=1, psk=secret_psk(psk)
        )
    made = offer.make_offer(
        theirs, ek_d=device.encapsulation_key, tenant_id=bytes(16), ref=device.ref, key_version=1, bucket=B, lifetime=3
    )
    waiting = accept_offer(made, device, ours.keyring[B].announcement)
    agreement = offer.take_answer(theirs, waiting.message, now=NOW, psk=psk)
    session = accept_confirmation(waiting, their_m4(theirs, agreement), ours.identity, device, log_mark=None)
    assert_records_pass(agreement, session.chain_key, is_their_device=False)


def test_their_device_enrols_with_our_server(ours: fixed.World) -> None:
    """An enrolment by the second implementation's device is taken by the project's server."""
    device = their_device(ours)
    secret = secrets.token_bytes(32)
    ours_token = EnrolmentToken(
        tenant_id=TenantId(device.tenant_id),
        token_id=TokenId(secrets.token_bytes(16)),
        secret=SecretBytes.copy_of(secret),
        server_id=ours.server_id,
    )
    token = enrol.read_token(ours_token.encode())
    assert (token.secret, h(token.secret)) == (secret, ours_token.secret_hash)
    pending = enrol.make_enrol(device, token, announcement_for(device, ours))
    with open_enrolments([pending.enrol], ours.keyring, server_bucket=B) as opened:
        [request] = opened.claims
        assert isinstance(request, EnrolmentRequest)
        assert request.has_secret_of(ours_token.secret_hash)
        assert (request.verification_key, request.encapsulation_key) == (device.signing.vk, device.kem.ek)
        assert check_enrolments(opened, [device.device_id]) == [None]
        assert check_enrolments(opened, ["another name"]) == [Refusal.SIGNATURE]
        [enrolled] = answer_enrolments(opened, [1], bucket_mark=B)
    enrol.take_enrolled(device, pending, enrolled)
    assert (device.key_version, device.mark) == (1, B)


def test_our_device_enrols_with_their_server(ours: fixed.World, theirs: Server) -> None:
    """An enrolment by the project's device is taken by the second implementation's server."""
    token = enrol.Token(bytes(16), secrets.token_bytes(16), secrets.token_bytes(32), ours.server_id)
    with DeviceKeys.generate() as keys, decode_token(token.text()) as read:
        pending = start_enrolment(read, "sensor ß", ours.keyring[B].announcement, keys)
        opened = enrol.open_enrol(theirs, pending.message, live=tuple(theirs.buckets))
        assert (opened.token_id, opened.secret) == (token.token_id, token.secret)
        enrol.verify_enrol(opened, secret_hash=h(token.secret), device_id="sensor ß")
        with pytest.raises(Refused):
            enrol.verify_enrol(opened, secret_hash=h(token.secret), device_id="sensor ss")
        enrolled = accept_enrolled(pending, enrol.make_enrolled(opened, key_version=4, mark=B + 1), keys)
    assert (enrolled.key_version, enrolled.bucket_mark) == (4, B + 1)


def test_our_device_s_evidence_convinces_a_third_party(ours: fixed.World, theirs: Server) -> None:
    """Evidence and CERT are enough to recompute who, leaf and receipt; another device's name does not fit."""
    with DeviceKeys.generate() as keys:
        device = keys.identity(
            server_id=ours.server_id, tenant_id=TenantId(bytes(16)), device_id="x", key_version=1, psk=None
        )
    made = offer.make_offer(
        theirs, ek_d=device.encapsulation_key, tenant_id=bytes(16), ref=device.ref, key_version=1, bucket=B
    )
    waiting = accept_offer(made, device, ours.keyring[B].announcement)
    agreement = offer.take_answer(theirs, waiting.message, now=NOW)
    session = accept_confirmation(waiting, their_m4(theirs, agreement), ours.identity, device, log_mark=None)
    kept, cert = session.evidence, check_cert(ours.identity.served, ours.server_id)
    for ref, is_true in ((kept.ref, True), (bytes(32), False)):
        who = h("who", kept.tenant_id, ref, u32(kept.key_version), kept.who_key)[:32]
        terms = u8(1) + u8(kept.form) + u16(kept.suite) + kept.server_id + kept.sid + u64(kept.start)
        entry = b"QFX1 LEAF" + terms + kept.th3_hash + who
        if is_true:
            h9.check_receipt(kept.m4[50:], entry, log_vk=cert.log_vk, origin=cert.log_origin)
        else:
            with pytest.raises(Refused, match="receipt"):
                h9.check_receipt(kept.m4[50:], entry, log_vk=cert.log_vk, origin=cert.log_origin)


def test_rotation_passes_both_ways(ours: fixed.World) -> None:
    """A ROTATE of either implementation's device is taken by the other's server."""
    device, signing, kem = their_device(ours), SigKey(), KemKey()
    credential = DeviceCredential(
        key_version=9, is_accepted=True, verification_key=device.signing.vk, encapsulation_key=device.kem.ek
    )
    body = enrol.make_rotate(device, signing, kem)
    [found] = check_rotations([body], server_id=ours.server_id, refs=[device.ref], devices=[credential])
    assert isinstance(found, Rotation)
    assert (found.key_version, found.verification_key, found.encapsulation_key) == (10, signing.vk, kem.ek)
    with DeviceKeys.generate() as keys, DeviceKeys.generate() as new:
        our_device = keys.identity(
            server_id=ours.server_id, tenant_id=TenantId(bytes(16)), device_id="x", key_version=1, psk=None
        )
        body = make_rotation(our_device, new)
        terms = {"server_id": ours.server_id, "ref": our_device.ref, "key_version": 1}
        taken = enrol.take_rotate(body, vk=keys.verification_key, **terms)
        assert taken == (2, new.verification_key, new.encapsulation_key)


def test_mappings_of_either_server_are_taken_by_the_other_device() -> None:
    """Both sides of a mapping derive the same keys, whichever implementation made the descriptor."""
    kem, ref, server_key = KemKey(), bytes(range(32)), SigKey()
    with MappingSigner.generate() as signer, DeviceKeys.generate() as keys:
        [made] = create_mappings(signer, [kem.ek], refs=[ref], bucket=B, width_s=60)
        taken = mapping.take_mapping(made.descriptor, kem=kem, ref=ref, server_vk=signer.verification_key)
        assert made.mapping.derive_key("model", bucket=B + 300).equals(taken.key(B + 300, "model"))
        descriptor, theirs = mapping.make_mapping(ek_d=keys.encapsulation_key, ref=ref, server=server_key, b=B)
        accepted = accept_mapping(
            descriptor,
            ref=ref,
            encapsulation_key=keys.encapsulation_key,
            decapsulation_key=keys.decapsulation_key,
            server_key=server_key.vk,
        )
        assert accepted.derive_key("a", bucket=B + 1).equals(theirs.key(B + 1, "a"))
        with pytest.raises(AuthenticationError):
            accept_mapping(
                descriptor,
                ref=ref,
                encapsulation_key=keys.encapsulation_key,
                decapsulation_key=keys.decapsulation_key,
                server_key=signer.verification_key,
            )


def test_record_glued_to_their_m3_is_split_off(ours: fixed.World) -> None:
    """What follows M3's fixed length is taken as one record under CK_start."""
    device = their_device(ours)
    pending = hello.make_m1(device, announcement_for(device, ours))
    credential = DeviceCredential(
        key_version=9, is_accepted=True, verification_key=device.signing.vk, encapsulation_key=device.kem.ek
    )
    with open_hellos([pending.m1], ours.keyring, server_bucket=B, seen=SeenHellos()) as opened:
        [m2] = answer_hellos(opened, [credential], ours.keyring, server_bucket=B, now_s=NOW)
    m3, agreement = hello.take_m2(device, pending, m2)
    glued = split_glued(m3 + record.Session.of(agreement, record.TO_SERVER).seal(b"early", b=B))
    [confirmation] = confirm_hellos([glued.message], ours.keyring, now_s=NOW, server_id=ours.server_id)
    with SessionChain.begin(confirmation.chain_key, sid=confirmation.sid, start=B, lifetime=288) as chain:
        header = decode_header(glued.record)
        mk = chain.message_key(B, direction=header.direction, purpose=header.purpose)
        assert bytes(open_record(mk, glued.record).view()) == b"early"


def field_ends(message: bytes, fields: list[int]) -> list[bytes]:
    """*message* with one bit flipped at the begin of each field and in its last byte, and cut by one byte."""
    flipped = [message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :] for at in [*fields, len(message) - 1]]
    return [message[:-1], message + b"\0", *flipped]


def test_both_servers_refuse_the_same_altered_first_messages(ours: fixed.World, theirs: Server) -> None:
    """An M1 or ENROL altered in any field is refused by both implementations' servers."""
    device = their_device(ours)
    m1 = hello.make_m1(device, announcement_for(device, ours)).m1
    token = enrol.Token(device.tenant_id, bytes(16), bytes(32), ours.server_id)
    enrolment = enrol.make_enrol(device, token, announcement_for(device, ours)).enrol
    live = tuple(theirs.buckets)
    for wrong in field_ends(m1, [0, 1, 3, 11, 12, 1580, 3148]):
        with open_hellos([wrong], ours.keyring, server_bucket=B, seen=SeenHellos()) as opened:
            assert isinstance(opened.claims[0], Refusal)
        with pytest.raises(Refused):
            hello.open_m1(theirs, wrong, live=live)
    for wrong in field_ends(enrolment, [0, 1, 3, 11, 12, 1580]):
        with open_enrolments([wrong], ours.keyring, server_bucket=B) as opened:
            assert isinstance(opened.claims[0], Refusal)
        with pytest.raises(Refused):
            enrol.open_enrol(theirs, wrong, live=live)


def test_forms_do_not_pass_for_each_other(ours: fixed.World, theirs: Server) -> None:
    """A hello's ticket is refused in an ANSWER, an offer's in an M3, by both implementations."""
    device = their_device(ours)
    target = OfferTarget(TenantId(device.tenant_id), device.ref, 9, device.kem.ek)
    [made] = make_offers([target], ours.keyring[B])
    answer, _ = offer.take_offer(device, announcement_for(device, ours), made.message)
    as_m3 = bytes((3, 1)) + answer[2:233] + bytes(32) + answer[-32:]
    [refusal] = confirm_hellos([as_m3], ours.keyring, now_s=NOW, server_id=ours.server_id)
    assert isinstance(refusal, Refusal)
    with pytest.raises(Refused):
        hello.take_m3(theirs, as_m3, now=NOW)


def sessions_of(ours: fixed.World, theirs: Server) -> tuple[SessionChain, record.Session, record.Session]:
    """One session as our chain, and as both ends of the second implementation."""
    device = their_device(ours)
    made = offer.make_offer(
        theirs, ek_d=device.kem.ek, tenant_id=device.tenant_id, ref=device.ref, key_version=9, bucket=B
    )
    _, agreed = offer.take_offer(device, announcement_for(device, ours), made)
    chain = SessionChain.begin(
        SecretBytes.copy_of(agreed.chain_key), sid=SessionId(agreed.sid), start=agreed.start, lifetime=agreed.lifetime
    )
    return chain, record.Session.of(agreed, record.TO_SERVER), record.Session.of(agreed, record.TO_DEVICE)


def test_our_device_rekeys_with_their_server(ours: fixed.World, theirs: Server) -> None:
    """R7: REKEY of our device gives their server the same next epoch, whose records open on both sides."""
    chain, _, server = sessions_of(ours, theirs)
    bucket = theirs.buckets[B]
    for epoch in (1, 2):
        with make_rekey(chain, ours.keyring[B].announcement) as pending:
            answer, server = rekey.take_rekey(server, bucket.body, bucket.kem, pending.body)
            accept_rekeyed(answer, bucket=B, epoch=epoch)
            chain = SessionChain(
                pending.chain.export_keys(), sid=chain.sid, start=chain.start, lifetime=chain.lifetime, epoch=epoch
            )
        for b in (B, B + 1, B + 40):
            header = new_header(sid=chain.sid, bucket=b, direction=record.TO_SERVER, epoch=epoch)
            with chain.message_key(b, direction=record.TO_SERVER, purpose=header.purpose) as key:
                assert (
                    record.Session(
                        server.sid, server.start, server.lifetime, server.direction, dict(server.keys), epoch
                    ).open(seal_record(key, header, b"healed"))
                    == b"healed"
                )


def test_their_device_rekeys_with_our_server(ours: fixed.World, theirs: Server) -> None:
    """R7: our server computes the next epoch of their device, many in a call, and reads what it asked for."""
    made = [sessions_of(ours, theirs) for _ in range(3)]
    pending = [rekey.make_rekey(device, theirs.buckets[B].body) for _, device, _ in made]
    rekeys = [read_rekey(body, epoch=0) for body, _ in pending]
    secrets_ = SecretBytes.join(
        [decapsulate_by_bucket(ours.keyring, [B], [its.ciphertext]) for its in rekeys if isinstance(its, Rekey)]
    )
    with derive_rekeyed_many(
        SecretBytes.join([chain.chain_key(B) for chain, _, _ in made]),
        secrets_,
        sids=[chain.sid for chain, _, _ in made],
        announcement_hashes=[ours.keyring[B].announcement.body_hash] * 3,
        rekeys=[its for its in rekeys if isinstance(its, Rekey)],
    ) as keys:
        for row, (_, session) in enumerate(pending):
            assert bytes(keys.row(row, 64)) == session.chain_key(B)
    assert encode_rekeyed(B, 1) == u8(2) + u64(B) + u32(1)
    body = pending[0][0]
    for wrong, reason in (
        (body[:-1], Refusal.LENGTH),
        (body + b"x", Refusal.LENGTH),
        (b"\x02" + body[1:], Refusal.TYPE),
        (body[:12] + b"\x02" + body[13:], Refusal.EPOCH),
    ):
        assert read_rekey(wrong, epoch=0) is reason
    assert read_rekey(body, epoch=1) is Refusal.EPOCH
    with pytest.raises(AuthenticationError):
        accept_rekeyed(encode_rekeyed(B, 2), bucket=B, epoch=1)


@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 18) + 1])
def test_late_replies_agree_both_ways(ours: fixed.World, theirs: Server, size: int) -> None:
    """R6: whoever asks and whoever answers, the reply opens under the request's key alone, byte for byte."""
    chain, device, server = sessions_of(ours, theirs)
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    for writer, direction in ((device, record.TO_SERVER), (server, record.TO_DEVICE)):
        request = writer.seal(b"when you can", b=B + 2, kind=record.REQUEST)
        awaited = reply.Awaited.of(writer, request)
        asked = decode_header(request)
        with chain.chain_key(B + 2) as key, derive_reply_key(key, RequestId(asked.stream_id)) as rk:
            assert bytes(rk.view()) == awaited.rk
            header = new_reply_header(
                sid=asked.sid,
                request_id=RequestId(asked.stream_id),
                request_bucket=asked.bucket,
                request_epoch=asked.epoch,
                direction=3 - direction,
            )
            sealed = seal_record(rk, header, message, aad=b"late")
            assert awaited.open(sealed, b"late") == message
            assert awaited.seal(message, b"late", stream_id=header.stream_id) == sealed
            assert decode_header(sealed) == header
            with open_record(rk, awaited.seal(message, b"late"), aad=b"late") as opened:
                assert opened.equals(message)
            for at in (3, 26, 30, 47, 48, 63, 64, len(sealed) - 1):
                wrong = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
                with pytest.raises(AuthenticationError):
                    open_record(rk, wrong, aad=b"late")
                with pytest.raises(Refused):
                    awaited.open(wrong, b"late")


def test_kinds_and_epochs_out_of_place_are_refused_by_both(ours: fixed.World, theirs: Server) -> None:
    """A record whose kind was changed, or of another epoch, is refused, also where that kind exists."""
    device = their_device(ours)
    made = offer.make_offer(
        theirs, ek_d=device.kem.ek, tenant_id=device.tenant_id, ref=device.ref, key_version=9, bucket=B
    )
    _, agreement = offer.take_offer(device, announcement_for(device, ours), made)
    writer = record.Session.of(agreement, record.TO_SERVER)
    reader = record.Session.of(agreement, record.TO_DEVICE)
    sealed = writer.seal(b"x", b=B, stream_id=StreamId(bytes(16)))
    for at, value in ((2, 2), (2, 3), (30, 1), (31, 3), (31, 0)):
        wrong = sealed[:at] + bytes([value]) + sealed[at + 1 :]
        with pytest.raises(Refused):
            reader.open(wrong)
        # The epoch is compared by the receiver; that a request was data shows when it is opened.
        if (at, value) not in {(30, 1), (2, 3)}:
            with pytest.raises(DecodeError):
                decode_header(wrong)
    assert isinstance(decode_header(sealed), RecordHeader)


def test_our_device_refuses_what_their_server_made_for_another(ours: fixed.World, theirs: Server) -> None:
    """An M2 for one hello does not open for another, whichever implementation made it."""
    with DeviceKeys.generate() as keys:
        device = keys.identity(
            server_id=ours.server_id, tenant_id=TenantId(bytes(16)), device_id="x", key_version=1, psk=None
        )
    first, second = (start_hello(device, ours.keyring[B].announcement) for _ in range(2))
    opened = hello.open_m1(theirs, first.message, live=tuple(theirs.buckets))
    m2 = hello.make_m2(theirs, opened, bucket=B, now=NOW)
    with pytest.raises(AuthenticationError):
        accept_hello(second, m2, device)
    accept_hello(first, m2, device)
