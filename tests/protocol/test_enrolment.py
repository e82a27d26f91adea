"""Enrolment, both sides: who has the token gets in, once and with these keys, and nothing altered does (E2, E3)."""

import dataclasses

import pytest
from parties import BUCKET, TENANT, make_server
from tampering import batches, every_flip, every_truncation

from qflare.errors import AuthenticationError, BatchError, DecodeError, EntropyError, RefusedError, UsageError
from qflare.model.refusal import Refusal
from qflare.primitives import kem
from qflare.primitives.random import drawing_from, random_bytes
from qflare.primitives.sig import SIG44
from qflare.protocol import wire
from qflare.protocol.device_keys import DeviceKeys
from qflare.protocol.enrolment import EnrolmentRequest, answer_enrolments, check_enrolments, open_enrolments
from qflare.protocol.enrolment_device import Enrolled, PendingEnrolment, accept_enrolled, start_enrolment
from qflare.protocol.token import new_token
from qflare.secret import SecretBytes


@pytest.fixture(scope="module")
def server():
    return make_server()


@pytest.fixture(scope="module")
def keys():
    return DeviceKeys.generate()


@pytest.fixture(scope="module")
def token(server):
    return new_token(tenant_id=TENANT, server_id=server.server_id)


@pytest.fixture(scope="module")
def pending(server, token, keys):
    return start_enrolment(token, "camera-7", server.announcement(), keys)


def opened(server, *messages, bucket=BUCKET):
    return open_enrolments(messages, server.keyring, server_bucket=bucket)


def test_a_device_with_a_token_is_enrolled(server, token, keys, pending):
    """Both sides come to the same version and mark, and the server to the device's keys."""
    assert len(pending.message) == 6960
    with opened(server, pending.message) as enrolments:
        (request,) = enrolments.claims
        assert isinstance(request, EnrolmentRequest)
        assert (request.tenant_id, request.token_id, request.bucket) == (TENANT, token.token_id, BUCKET)
        assert (request.verification_key, request.encapsulation_key) == (keys.verification_key, keys.encapsulation_key)
        assert request.key_hash == keys.key_hash
        assert request.has_secret_of(token.secret_hash)
        assert not request.has_secret_of(bytes(64))
        assert check_enrolments(enrolments, ["camera-7"]) == [None]
        first = answer_enrolments(enrolments, [1], bucket_mark=BUCKET)
        second = answer_enrolments(enrolments, [1], bucket_mark=BUCKET + 1)
    assert accept_enrolled(pending, first[0], keys) == Enrolled(key_version=1, bucket_mark=BUCKET)
    assert accept_enrolled(pending, second[0], keys).bucket_mark == BUCKET + 1
    assert len(first[0]) == 1598
    assert first[0][2:1570] != second[0][2:1570]  # answered afresh


def test_every_flipped_bit_and_truncation_of_enrol_is_refused(server, pending):
    """B2: no altered ENROL opens; each refusal is a length, a field of the header, or the tag."""
    altered = (*every_flip(pending.message), *every_truncation(pending.message))
    reasons = set()
    for batch in batches(iter(altered), 4096):
        with opened(server, *batch) as enrolments:
            assert not any(isinstance(claim, EnrolmentRequest) for claim in enrolments.claims)
            reasons.update(enrolments.claims)
    assert reasons == {Refusal.LENGTH, Refusal.TYPE, Refusal.VERSION, Refusal.SUITE, Refusal.BUCKET, Refusal.TAG}


def test_every_flipped_bit_and_truncation_of_enrolled_is_refused(server, keys, pending):
    """B2: the device accepts no altered ENROLLED, and all failures look alike."""
    with opened(server, pending.message) as enrolments:
        (answer,) = answer_enrolments(enrolments, [1], bucket_mark=BUCKET)
    for altered in (*every_flip(answer), *every_truncation(answer), wire.REFUSED):
        with pytest.raises(AuthenticationError):
            accept_enrolled(pending, altered, keys)


def test_the_signature_binds_name_token_tenant_and_keys(server, token, keys):
    """Another device_id, and plaintexts put together from other parts, fail the signature."""
    with opened(server, start_enrolment(token, "camera-8", server.announcement(), keys).message) as enrolments:
        assert check_enrolments(enrolments, ["camera-7"]) == [Refusal.SIGNATURE]
        assert check_enrolments(enrolments, ["camera-8"]) == [None]
        (request,) = enrolments.claims
        other = DeviceKeys.generate()
        for change in (
            {"token_id": bytes(16)},
            {"tenant_id": bytes(16)},
            {"verification_key": other.verification_key},
            {"encapsulation_key": other.encapsulation_key},
        ):
            enrolments.claims[0] = dataclasses.replace(request, **change)
            assert check_enrolments(enrolments, ["camera-8"]) == [Refusal.SIGNATURE]
        enrolments.claims[0] = request
        enrolments.th1 = bytes(64)
        assert check_enrolments(enrolments, ["camera-8"]) == [Refusal.SIGNATURE]


def test_a_stolen_enrol_plaintext_cannot_carry_the_thiefs_key(server, token, keys):
    """Who has the token but not the signing key of vk_D cannot enrol that vk_D with an ek of his own."""
    mallory = DeviceKeys.generate()
    mixed = DeviceKeys(
        verification_key=keys.verification_key,
        signing_key=mallory.signing_key,
        encapsulation_key=mallory.encapsulation_key,
        decapsulation_key=mallory.decapsulation_key,
    )
    with opened(server, start_enrolment(token, "d", server.announcement(), mixed).message) as enrolments:
        assert check_enrolments(enrolments, ["d"]) == [Refusal.SIGNATURE]


def test_an_encapsulation_key_out_of_range_is_refused(server, token, keys):
    """The check of FIPS 203, section 7.2, stands before the signature, and its failure is that row's alone."""
    bad = DeviceKeys(
        verification_key=keys.verification_key,
        signing_key=keys.signing_key,
        encapsulation_key=b"\xff" * kem.EK_BYTES,
        decapsulation_key=keys.decapsulation_key,
    )
    messages = [start_enrolment(token, "d", server.announcement(), its).message for its in (keys, bad, keys)]
    with opened(server, *messages) as enrolments:
        assert check_enrolments(enrolments, ["d"] * 3) == [None, Refusal.ENCAPSULATION_KEY, None]
        answers = answer_enrolments(enrolments, [1, 1, 1], bucket_mark=BUCKET)
        assert [isinstance(answer, bytes) for answer in answers] == [True, False, True]
        assert answers[1] is Refusal.ENCAPSULATION_KEY


def test_unknown_tokens_are_refused_whatever_else_holds(server, pending):
    """None for a device_id is a token refusal."""
    with opened(server, pending.message) as enrolments:
        assert check_enrolments(enrolments, [None]) == [Refusal.TOKEN]


def test_buckets_are_taken_exactly_in_the_window(server, token, keys):
    """b-1, b and published b+1 are open; everything else is refused, at every boundary (H3)."""
    made = {
        b: start_enrolment(token, "d", server.announcement(b), keys).message for b in (BUCKET - 1, BUCKET, BUCKET + 1)
    }
    for current in range(BUCKET - 4, BUCKET + 5):
        for bucket, message in made.items():
            with opened(server, message, bucket=current) as enrolments:
                is_open = isinstance(enrolments.claims[0], EnrolmentRequest)
            assert is_open == (abs(bucket - current) <= 1)
    unpublished = {b: kept for b, kept in server.keyring.items() if b != BUCKET + 1}
    with open_enrolments([made[BUCKET + 1]], unpublished, server_bucket=BUCKET) as enrolments:
        assert enrolments.claims == [Refusal.BUCKET]


def test_an_enrol_for_another_bucket_or_server_does_not_open(server, token, keys, pending):
    """The announcement's body is in the transcript: another bucket's or server's key gives another th1."""
    moved = pending.message[:4] + wire.u64(BUCKET + 1) + pending.message[12:]
    other = make_server()
    with opened(server, moved) as enrolments:
        assert enrolments.claims == [Refusal.TAG]
    with opened(other, pending.message) as enrolments:
        assert enrolments.claims == [Refusal.TAG]
    with pytest.raises(UsageError, match="another server"):
        start_enrolment(token, "d", other.announcement(), keys)


def test_batches_equal_loops_and_one_bad_row_fails_alone(server, token):
    """Mixed buckets, bad rows at every place: each message has the answer it has alone."""
    held = [DeviceKeys.generate() for _ in range(6)]
    pendings = [
        start_enrolment(token, f"d{number}", server.announcement(BUCKET - 1 + number % 3), its)
        for number, its in enumerate(held)
    ]
    messages = [its.message for its in pendings]
    for place in range(6):
        bad = [*messages[:place], messages[place][:-1], *messages[place + 1 :]]
        names = [f"d{number}" for number in range(6)]
        with opened(server, *bad) as enrolments:
            verdicts = check_enrolments(enrolments, names)
            assert verdicts == [Refusal.LENGTH if number == place else None for number in range(6)]
            versions = [number + 1 if verdict is None else verdict for number, verdict in enumerate(verdicts)]
            answers = answer_enrolments(enrolments, versions, bucket_mark=7)
        for number, (its, answer) in enumerate(zip(pendings, answers, strict=True)):
            if number == place:
                assert answer is Refusal.LENGTH
            else:
                assert accept_enrolled(its, answer, held[number]) == Enrolled(key_version=number + 1, bucket_mark=7)
    with opened(server) as enrolments:
        assert enrolments.claims == []
        assert check_enrolments(enrolments, []) == []
        assert answer_enrolments(enrolments, [], bucket_mark=1) == []
    with opened(server, messages[0]) as enrolments:
        with pytest.raises(BatchError):
            check_enrolments(enrolments, [])
        with pytest.raises(BatchError):
            answer_enrolments(enrolments, [1, 2], bucket_mark=1)
        assert answer_enrolments(enrolments, [Refusal.TOKEN], bucket_mark=1) == [Refusal.TOKEN]


def test_another_devices_answer_is_refused(server, token, keys):
    """ENROLLED answers one ENROL and one ek_D."""
    one = start_enrolment(token, "d", server.announcement(), keys)
    two = start_enrolment(token, "d", server.announcement(), keys)
    with opened(server, one.message) as enrolments:
        (answer,) = answer_enrolments(enrolments, [1], bucket_mark=1)
    with pytest.raises(AuthenticationError):
        accept_enrolled(two, answer, keys)
    with pytest.raises(AuthenticationError):
        accept_enrolled(one, answer, DeviceKeys.generate())


def test_a_key_version_of_zero_is_refused(server, keys, pending):
    """D27: versions count from 1."""
    with opened(server, pending.message) as enrolments:
        (answer,) = answer_enrolments(enrolments, [0], bucket_mark=1)
    with pytest.raises(RefusedError):
        accept_enrolled(pending, answer, keys)


def test_a_pending_enrolment_goes_on_after_a_restart(server, keys, pending):
    """State written and read back accepts the same answer; damaged state is refused."""
    state = pending.to_state()
    again = PendingEnrolment.from_state(state)
    with opened(server, again.message) as enrolments:
        (answer,) = answer_enrolments(enrolments, [3], bucket_mark=1)
    assert accept_enrolled(again, answer, keys).key_version == 3
    for name, value in (
        ("message", b""),
        ("th1", b""),
        ("ck1", b"x" * 64),
        ("ck1", SecretBytes.zeros(1)),
        ("bucket", "1"),
    ):
        with pytest.raises(DecodeError):
            PendingEnrolment.from_state({**state, name: value})
        with pytest.raises(DecodeError):
            PendingEnrolment.from_state({key: kept for key, kept in state.items() if key != name})


def test_secrets_are_wiped_at_the_end_of_their_blocks(server, token, keys):
    """Neither side keeps ck1 past its block, nor do keys outlive theirs."""
    with start_enrolment(token, "d", server.announcement(), keys) as its:
        with opened(server, its.message) as enrolments:
            ck1 = enrolments.ck1
            assert ck1.equals(its.ck1)
        assert bytes(ck1.view()) == bytes(64)
    assert bytes(its.ck1.view()) == bytes(64)
    with DeviceKeys.generate() as fresh:
        pass
    assert bytes(fresh.signing_key.view()) == bytes(SIG44.SK_BYTES)
    assert bytes(fresh.decapsulation_key.view()) == bytes(kem.DK_BYTES)


def test_a_failing_random_source_leaves_nothing_half_made(server, token, keys):
    """Keys, ENROL and ENROLLED each fail as a whole when randomness runs out at any draw."""
    for size in (0, 31, 32, 63, 64):
        with drawing_from(bytes(size)), pytest.raises(EntropyError):
            DeviceKeys.generate()
        with drawing_from(bytes(size)), pytest.raises(EntropyError):
            DeviceKeys.generate_many(2)
    for size in (0, 31, 32, 63):
        with drawing_from(bytes(size)), pytest.raises(EntropyError):
            start_enrolment(token, "d", server.announcement(), keys)
    its = start_enrolment(token, "d", server.announcement(), keys)
    with opened(server, its.message) as enrolments, drawing_from(bytes(31)):
        assert answer_enrolments(enrolments, [1], bucket_mark=1) == [Refusal.INTERNAL]


def test_many_device_keys_are_pairs_and_differ():
    """Keys made together work as pairs, each for itself."""
    made = DeviceKeys.generate_many(3)
    assert len({its.key_hash for its in made}) == 3
    for its in made:
        message = random_bytes(64)
        SIG44.verify(its.verification_key, message, SIG44.sign(its.signing_key, message, context=b"t"), context=b"t")
        sent = kem.encapsulate(its.encapsulation_key)
        assert kem.decapsulate(its.decapsulation_key, sent.ciphertext).equals(sent.shared_secret)
        identity = its.identity(server_id=bytes(32), tenant_id=TENANT, device_id="d", key_version=2, psk=None)
        its.wipe()
        assert bytes(identity.signing_key.view()) != bytes(SIG44.SK_BYTES)
